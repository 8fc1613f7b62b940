"""EmbeddingMap: from the embedding of one backbone to that of another, fitted on shared tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import BackboneError, ConfigError

__all__ = ["EmbeddingMap"]

CHUNK = 4096  # tokens of one pass, where prompts enter behind the embedding


@dataclass(frozen=True)
class EmbeddingMap:
    r"""`p ↦ (p − μ_s) W + μ_t`, `W = (Xᵀ X + λ I)⁻¹ Xᵀ Y` over the tokens that both models have.

    X [N D_s] and Y [N D_t] are what a shared token is where prompts enter the two models, without
    their means μ_s and μ_t; λ is `ridge` times the mean of the diagonal of XᵀX. A prompt of one
    backbone becomes one of another by it. Nothing says that it then does there what it did: how
    far two embeddings are linear images of each other is `explained`, and a prompt lies far from
    all tokens.

    Attributes:
        weight: W [D_s D_t].
        source_mean: μ_s [D_s].
        target_mean: μ_t [D_t].
        shared: N, tokens that both have, as the same characters at the same place in a word.
        explained: the share of the variance of held-out target rows that the map predicts.
    """

    weight: Float[Tensor, "s t"]
    source_mean: Float[Tensor, " s"]
    target_mean: Float[Tensor, " t"]
    shared: int
    explained: float

    @classmethod
    @torch.no_grad()
    def between(
        cls, source: Backbone, target: Backbone, *, ridge: float = 1e-3, held_out: float = 0.1
    ) -> "EmbeddingMap":
        """Fit the map on all shared tokens, after measuring it on a share that was held out.

        Args:
            source: the model that prompts come from.
            target: the model that they shall go to.
            ridge: λ as a share of the mean variance of the source.
            held_out: the share of tokens, drawn at random, that `explained` is measured on.

        Raises:
            ConfigError: a negative ridge, or a share that leaves nothing.
            BackboneError: a model without tokenizer, or two that share no more than a few tokens.
        """
        if ridge < 0 or not 0 < held_out < 1:
            raise ConfigError(
                expected="ridge of at least 0, and held_out between 0 and 1",
                got=f"ridge={ridge}, held_out={held_out}",
                remedy="Take 0.001 and 0.1.",
            )
        mine, other = _tokens(source), _tokens(target)
        keys = sorted(mine.keys() & other.keys())
        if len(keys) < 4:
            raise BackboneError(
                expected=f"tokens that {source.name!r} and {target.name!r} share",
                got=f"{len(keys)}",
                remedy="Map between models of the same language.",
            )
        cut = round(held_out * len(keys))
        if not 2 <= cut <= len(keys) - 2:
            raise ConfigError(
                expected=f"held_out that leaves at least 2 of {len(keys)} tokens on either side",
                got=f"{held_out}",
                remedy="Take 0.1, or more where few tokens are shared.",
            )
        x = _entering(source, torch.tensor([mine[key] for key in keys]))
        y = _entering(target, torch.tensor([other[key] for key in keys]))
        order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))
        seen, held = order[cut:], order[:cut]
        weight, before, after = _fit(x[seen], y[seen], ridge)
        rest = y[held] - (x[held] - before) @ weight - after
        spread = (y[held] - after).square().sum()
        explained = 1 - float(rest.square().sum() / spread)
        weight, before, after = _fit(x, y, ridge)
        return cls(weight.float(), before.float(), after.float(), len(keys), explained)

    def __call__(self, values: Float[Tensor, "*shape s"]) -> Float[Tensor, "*shape t"]:
        """Return prompt tokens of the source as prompt tokens of the target."""
        moved = values.float() - self.source_mean.to(values.device)
        result: Tensor = moved @ self.weight.to(values.device) + self.target_mean.to(values.device)
        return result


def _tokens(backbone: Backbone) -> dict[tuple[str, bool], int]:
    """Return the id of each token of letters, by these and whether it begins a word."""
    tokenizer = backbone.processor
    if not hasattr(tokenizer, "get_vocab"):
        raise BackboneError(
            expected="a backbone with a tokenizer",
            got=f"{backbone.name!r} ({backbone.kind}) without one",
            remedy="Only models of texts share tokens.",
        )
    return _keys(tokenizer)


def _keys(tokenizer: Any) -> dict[tuple[str, bool], int]:
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    marks = tuple(m for m in ("Ġ", "▁") if sum(t.startswith(m) for t in vocabulary) > 1)
    inner = not marks and any(t.startswith("##") for t in vocabulary)
    found: dict[tuple[str, bool], int] = {}
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        begins = token.startswith(marks) if marks else not (inner and token.startswith("##"))
        letters = token.removeprefix("##") if inner else token
        letters = letters.lstrip("".join(marks)) if marks else letters
        if letters.isalpha() and letters.isascii() and number not in special:
            found.setdefault((letters, begins), number)
    return found


def _entering(backbone: Backbone, ids: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
    """Return what tokens are where prompts enter, in float64."""
    ids = ids.to(backbone.device)
    if backbone.site == "inputs":
        rows: Tensor = backbone.plain_model.get_input_embeddings()(ids)
        return rows.double().cpu()
    made = []
    for part in torch.split(ids, CHUNK):
        batch = {"input_ids": part[:, None], "attention_mask": torch.ones_like(part)[:, None]}
        made.append(backbone.run(batch, (0,))[0][:, 0].double().cpu())
    return torch.cat(made)


def _fit(
    x: Float[Tensor, "n s"], y: Float[Tensor, "n t"], ridge: float
) -> tuple[Float[Tensor, "s t"], Float[Tensor, " s"], Float[Tensor, " t"]]:
    before, after = x.mean(dim=0), y.mean(dim=0)
    x, y = x - before, y - after
    gram = x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return torch.linalg.lstsq(gram, x.T @ y, driver="gelsd").solution, before, after
