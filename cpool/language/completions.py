"""The probability that a language model gives what shall follow each text, word after word."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.backbones.completions import IGNORED
from cpool.errors import DataError
from cpool.inject import encode
from cpool.inject._checks import refuse_live
from cpool.inject.start import started
from cpool.language.blocks import by_blocks
from cpool.language.decoding import answered
from cpool.language.sharing import prompt_once
from cpool.prompter import Prompts

__all__ = ["score_completions"]


def score_completions(
    backbone: Backbone, batch: Batch, prompts: Prompts | None
) -> Float[Tensor, "B 2"]:
    """Return `Σ_i log p(y_i | prompts, text, y_<i)` of each row, in nats, and how many y_i it has.

    y is the completion with its end token; the words of the text are not scored. A decoder reads
    both in one row, an encoder–decoder answers in its decoder. A row has what it has alone, and
    gradients reach the prompts.

    Args:
        backbone: a frozen decoder or encoder–decoder with its output embedding.
        batch: as `backbone.prepare(texts, completions=…)` makes it, padded on either side.
        prompts: of this batch, or None.

    Raises:
        DataError: no completions, or text, prompts and completion exceed the positions.
        BackboneError: no language model, or prompts that it cannot carry.
    """
    refuse_live(prompts)
    if "completion" not in batch:
        raise DataError(
            expected="texts with completions, which are scored",
            got="texts alone",
            remedy="Pass completions to `prepare` or `as_completions`, or call `generate`.",
        )
    words = batch["completion"].to(backbone.device)
    real = words != IGNORED
    words = words.clamp(min=0)
    if backbone.kind == "seq2seq":
        states = answered(backbone, batch, prompts, words)
    else:
        states = _followed(backbone, batch, prompts, words, real)
    each = _log_probabilities(backbone, states[real], words[real])
    scores = torch.zeros(real.shape, device=each.device).masked_scatter(real, each)
    return torch.stack([scores.sum(dim=1), real.sum(dim=1).to(scores)], dim=1)


def _followed(
    backbone: Backbone,
    batch: Batch,
    prompts: Prompts | None,
    words: Int[Tensor, "B L"],
    real: Bool[Tensor, "B L"],
) -> Float[Tensor, "B L D"]:
    """Return the states from which a decoder predicts each word of the completions."""
    batch, prompts = started(backbone, batch, prompts)
    inputs = backbone.model_inputs(batch)
    asked = inputs["attention_mask"]
    # Nothing is predicted after the last word, so it is not run.
    ids = torch.cat([inputs["input_ids"], words[:, :-1]], dim=1)
    mask = torch.cat([asked, real[:, 1:].to(asked)], dim=1)
    # All padding goes to the right, so that a completion stands beside its text.
    order = mask.argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(dim=1).max())]
    row = {"input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order)}
    prompts = prompt_once(backbone, prompts, len(order))
    states = encode(backbone, row, prompts).hidden_states[-1][:, -order.shape[1] :]
    place = asked.sum(dim=1)[:, None] - 1 + torch.arange(words.shape[1], device=ids.device)
    place = place.clamp(max=states.shape[1] - 1)  # beyond the end of a shorter completion
    return states.gather(1, place[..., None].expand(-1, -1, states.shape[2]))


def _log_probabilities(
    backbone: Backbone, states: Float[Tensor, "n D"], words: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the log-probability of a word after each state; few rows of logits are held."""

    def predicted(rows: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(backbone.word_logits(rows).float(), targets, reduction="none")

    return torch.cat(by_blocks(predicted, backbone.vocabulary_size, states, words))
