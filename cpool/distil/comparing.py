"""How far what a model says after one prompt is from what it says after another."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.errors import DataError
from cpool.inject import encode
from cpool.inject.start import hidden_start
from cpool.language.blocks import by_blocks
from cpool.prompter import Prompts

__all__ = ["Agreement", "agreement", "divergence", "text_prompts"]


class Agreement(NamedTuple):
    """How far two prompts agree about the next word, over all words of some texts.

    Attributes:
        divergence: mean KL(p after the first ‖ p after the second), in nats.
        same: share of words after which both have the same most probable next word.
        words: how many were compared.
    """

    divergence: float
    same: float
    words: int


def text_prompts(backbone: Backbone, text: str) -> Prompts:
    """Return what a decoder keeps of a text: reading it as a prefix is reading the text.

    Args:
        backbone: a frozen decoder with a tokenizer.
        text: the words, run once for all rows of all batches.

    Raises:
        DataError: no words.
    """
    ids = torch.tensor(backbone.processor.encode(text, add_special_tokens=False))
    if not len(ids):
        raise DataError(expected="a text with words", got=repr(text), remedy="Give some.")
    if backbone.kind != "causal":
        backbone.cache_of(ids)  # says why a T5 does not do
    layers = dict(enumerate(backbone.read_of(ids, after_start=True)))
    none = torch.zeros((), device=backbone.device)
    return Prompts(None, layers, none, {}, after_start=True)


def divergence(
    backbone: Backbone, batch: Batch, first: Prompts | None, second: Prompts | None
) -> Float[Tensor, ""]:
    """Return `mean_i KL(p(· | first, x_≤i) ‖ p(· | second, x_≤i))` over the real tokens of a batch.

    Gradients reach the second prompts alone. Prompts of a batch axis of 1 are those of all rows.
    """
    return torch.stack([part[0] for part in _parts(backbone, batch, first, second)]).sum()


@torch.no_grad()
def agreement(
    backbone: Backbone,
    texts: Sequence[str],
    first: Prompts | None,
    second: Prompts | None,
    *,
    batch_size: int = 8,
) -> Agreement:
    """Compare what a decoder says after two prompts, after each word of some texts.

    Args:
        backbone: the decoder.
        texts: whose words are read; cut where they do not fit behind the longer prompt.
        first, second: prompts with a batch axis of 1, or None.
        batch_size: texts a pass.

    Raises:
        DataError: no texts.
    """
    if not texts:
        raise DataError(expected="texts to compare on", got="none", remedy="Give some.")
    longest = max(_length(prompts) for prompts in (first, second))
    room = None if backbone.max_tokens is None else backbone.max_tokens - longest
    apart, same, words = 0.0, 0, 0
    for start in range(0, len(texts), batch_size):
        batch = backbone.prepare(list(texts[start : start + batch_size]), room)
        number = int(batch["attention_mask"].sum())
        if (hidden := hidden_start(backbone, batch)) is not None:
            number -= int(hidden.sum())
        for part, agreeing in _parts(backbone, batch, first, second):
            apart += float(part) * number
            same += int(agreeing)
        words += number
    return Agreement(apart / words, same / words, words)


def _parts(
    backbone: Backbone, batch: Batch, first: Prompts | None, second: Prompts | None
) -> list[tuple[Tensor, Tensor]]:
    """Return the divergence of each block of words, as shares of the mean, and equal next words."""
    with torch.no_grad():
        wanted = _states(backbone, batch, first)
    ours = _states(backbone, batch, second)

    def compared(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = backbone.word_logits(left).float().log_softmax(dim=-1)
        found = backbone.word_logits(right).float().log_softmax(dim=-1)
        apart = (target.exp() * (target - found)).sum() / len(ours)
        return apart, (target.argmax(dim=-1) == found.argmax(dim=-1)).sum()

    return by_blocks(compared, backbone.vocabulary_size, wanted, ours)


def _length(prompts: Prompts | None) -> int:
    """Return how many positions prompts take."""
    if prompts is None:
        return 0
    tokens = 0 if prompts.tokens is None else prompts.tokens.shape[1]
    return tokens + max((key.shape[2] for key, _ in prompts.layers.values()), default=0)


def _states(backbone: Backbone, batch: Batch, prompts: Prompts | None) -> Float[Tensor, "n D"]:
    encoded = encode(backbone, batch, prompts)
    real, hidden = encoded.mask, hidden_start(backbone, batch)
    if hidden is not None:  # whether prompts stand in front of a start token or behind it
        real = real.clone()
        real[:, -hidden.shape[1] :] &= ~hidden.to(real.device)
    return encoded.hidden_states[-1][real]
