"""distil: a slot that makes a frozen model answer as if it had read a whole text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.distil.comparing import divergence, text_prompts
from cpool.errors import ConfigError, DataError
from cpool.initialisers import from_text, from_text_cache
from cpool.policies import Everything
from cpool.pool import PromptPool
from cpool.progress import Progress
from cpool.prompter import Branch, EmbeddingSite, PrefixSite, Prompter, Prompts, Site
from cpool.ready_pool import pool_of
from cpool.routed import routed
from cpool.seeding import seeded
from cpool.settings import is_number, is_whole

__all__ = ["Distilled", "distil", "routed_slots"]


@dataclass(frozen=True)
class Distilled:
    """A text in a slot.

    Attributes:
        values: [S P W], for `from_values` of a pool of one's own, or `export_peft` of `branch`.
        branch: the slot, frozen, in a branch of its own.
        losses: the mean divergence of each epoch, in nats a word.
        read: how many tokens the text has, P of which the slot takes.
    """

    values: Tensor
    branch: Branch
    losses: tuple[float, ...]
    read: int

    def prompts(self) -> Prompts:
        """Return the slot for every row of a batch, as `encode` and `generate` take it."""
        return Prompter([self.branch]).forced(0)


def distil(
    backbone: Backbone,
    text: str,
    rows: Sequence[str],
    *,
    length: int,
    site: Literal["prefix", "tokens"] = "prefix",
    epochs: int = 5,
    batch_size: int = 8,
    lr: float = 0.01,
    seed: int = 0,
    quiet: bool = False,
) -> Distilled:
    """Train a slot so that the model goes on with `rows` as it does when it has read `text`.

    Loss: `mean_i KL(p(· | text, x_≤i) ‖ p(· | slot, x_≤i))` over all words x_i of the rows: context
    distillation (Askell et al., 2021, arXiv:2112.00861, section 2.2). With a prefix and rows from
    `self_study` the slot is what S. Eyuboglu et al. call a cartridge (2025, arXiv:2506.06266); with
    tokens it is a hard prompt, compressed to so many soft ones. It starts from the first words of
    the text, as there. Adam, cosine decay to 0.

    Args:
        backbone: a frozen decoder with its output embedding and a tokenizer.
        text: what is to be read no more: a document, or a long hard prompt.
        rows: texts that may follow it; the slot is as good as they are like what will.
        length: P, at most the tokens of the text.
        site: "prefix", keys and values on every layer, or "tokens" at the embedding.
        epochs: passes over the rows.
        batch_size: rows a step.
        lr: learning rate.
        seed: of the order of the rows.
        quiet: show no progress.

    Raises:
        ConfigError: a length above that of the text, or settings that cannot train.
        DataError: no text or no rows, or a loss that is not finite.
        BackboneError: no decoder with an output embedding, or one that torch quantised.
    """
    _check(length, epochs, batch_size, lr, site)
    if not rows:
        raise DataError(
            expected="texts that may follow", got="none", remedy="Make some with `self_study`."
        )
    backbone.language_model  # noqa: B018  raises where there is none
    backbone.need_gradient()
    teacher = text_prompts(backbone, text)
    read = next(iter(teacher.layers.values()))[0].shape[2]
    if length > read:
        raise ConfigError(
            expected=f"length of at most {read}, the tokens of the text",
            got=str(length),
            remedy="Take fewer tokens than there are to be saved, or read the text itself.",
        )
    branch = _branch(backbone, text, length, site)
    room = None if backbone.max_tokens is None else backbone.max_tokens - read
    if room is not None and room < 1:
        raise DataError(
            expected=f"a text that leaves room in {backbone.max_tokens} positions",
            got=f"{read} tokens",
            remedy="Distil it in parts, a slot each.",
        )
    prompter = Prompter([branch])
    prompter.begin_task(0)  # makes the slot
    optimizer = torch.optim.Adam(branch.pool.parameters(), lr)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    progress, losses = Progress(quiet), []
    with seeded(seed, "distil"):
        for _ in progress.track(range(epochs), "distil"):
            order = torch.randperm(len(rows)).tolist()
            total = 0.0
            for start in progress.track(range(0, len(rows), batch_size), "epoch"):
                some = [rows[i] for i in order[start : start + batch_size]]
                batch = backbone.prepare(some, room)
                loss = divergence(backbone, batch, teacher, prompter.forced(0))
                total += _step(loss, optimizer, branch) * len(some)
                schedule.step()
            losses.append(total / len(rows))
    branch.pool.freeze_all()
    values = branch.pool.read(torch.tensor(0)).detach().clone()
    return Distilled(values, branch, tuple(losses), read)


def routed_slots(
    slots: Sequence[Distilled],
    texts: Sequence[Sequence[str]],
    backbone: Backbone,
    *,
    centroids: int = 5,
) -> Prompter:
    """Return a prompter over distilled texts: each question gets the slot that it is about.

    Args:
        slots: of one site, all of this backbone.
        texts: some questions about each, such as those of `self_study`, in the same order.
        backbone: that they were distilled for.
        centroids: k-means centres a slot, by which questions are sent.

    Raises:
        PoolError: slots of different sites.
        DataError: no slots, or none or too many texts for one.
    """
    if not slots:
        raise DataError(expected="at least one slot", got="none", remedy="Distil a text first.")
    names = [f"text{number}" for number in range(len(slots))]
    pool = pool_of([slot.values for slot in slots], names)
    site = slots[0].branch.site
    return routed("distilled", pool, site, texts, backbone, centroids=centroids)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, branch: Branch) -> float:
    if not torch.isfinite(loss):
        raise DataError(expected="a finite loss", got=f"{float(loss.detach())}", remedy="Lower lr.")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(branch.pool.parameters(), 1.0)
    optimizer.step()
    branch.pool.mark_trained(torch.tensor([[0]]))
    return float(loss.detach())


def _branch(backbone: Backbone, text: str, length: int, kind: str) -> Branch:
    """Return a branch of one slot that starts from the first words of the text."""
    site: Site
    if kind == "tokens":
        site = EmbeddingSite(after_start=backbone.has_start)
        width, init = backbone.hidden_size, from_text(backbone, text)
    else:
        layers = tuple(range(backbone.num_layers))
        site = PrefixSite(layers, backbone.num_kv_heads, after_start=backbone.has_start)
        width = backbone.num_kv_heads * backbone.head_dim
        init = from_text_cache(backbone, text, after_start=True)
    pool = PromptPool(site.sites, length, width, init)
    return Branch("distilled", pool, Everything(), site, start=1).to(backbone.device)


def _check(length: Any, epochs: Any, batch_size: Any, lr: Any, site: Any) -> None:
    for name, value in (("length", length), ("epochs", epochs), ("batch_size", batch_size)):
        if not is_whole(value) or value < 1:
            raise ConfigError(
                expected=f"{name} of at least 1", got=repr(value), remedy="Give a whole number."
            )
    if not is_number(lr) or lr <= 0:
        raise ConfigError(expected="lr above 0", got=repr(lr), remedy="0.01 is a start.")
    if site not in ("prefix", "tokens"):
        raise ConfigError(
            expected='site "prefix" or "tokens"', got=repr(site), remedy="Choose one."
        )
