"""How new slots start: closures that are given a shape [n S P W] and return its values.

The right scale decides whether a prompt trains at all (Lester et al., 2021, section 3.2): token
embeddings have a standard deviation near 0.02, so N(0, 1) is a poor start for a language model,
while prefixes of vision models start well from U(-1, 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.errors import DataError, PoolError

if TYPE_CHECKING:
    from cpool.pool import PromptPool

__all__ = [
    "FIRST",
    "FromText",
    "Initialiser",
    "constant",
    "from_labels",
    "from_slot",
    "from_text",
    "from_text_cache",
    "from_values",
    "from_vocabulary",
    "mean_of_slots",
    "moved",
    "normal",
    "uniform",
]

FIRST = 5000
"""Tokens of the lowest ids, the most common ones, from which a prompt may start."""

Initialiser: TypeAlias = Callable[[tuple[int, int, int, int]], Float[Tensor, "n S P W"]]


def uniform(low: float = -1.0, high: float = 1.0) -> Initialiser:
    """Start from U(low, high).

    >>> uniform(0.0, 0.01)((2, 1, 5, 8)).shape
    torch.Size([2, 1, 5, 8])
    """
    return lambda shape: torch.empty(shape).uniform_(low, high)


def normal(std: float = 0.02, mean: float = 0.0) -> Initialiser:
    """Start from N(mean, std²)."""
    return lambda shape: torch.empty(shape).normal_(mean, std)


def constant(value: float = 0.0) -> Initialiser:
    """Start every value from one number."""
    return lambda shape: torch.full(shape, value)


def moved(init: Initialiser, by: Float[Tensor, " W"]) -> Initialiser:
    """Start from what `init` gives plus the same vector for every prompt token.

    >>> moved(constant(1.0), torch.tensor([0.0, 2.0]))((1, 1, 1, 2))
    tensor([[[[1., 3.]]]])
    """
    return lambda shape: init(shape) + by.detach().float().cpu()


def from_values(values: Float[Tensor, "n S P W"]) -> Initialiser:
    """Start from given values.

    Raises:
        PoolError: the values have not the shape of the new slots (when called).
    """

    def init(shape: tuple[int, int, int, int]) -> Tensor:
        if tuple(values.shape) != shape:
            raise PoolError(
                expected=f"initial values of shape {shape} (slots, sites, length, width)",
                got=f"{tuple(values.shape)}",
                remedy="Reshape the values, or make the pool with the sizes they have.",
            )
        return values.detach().clone()

    return init


def from_vocabulary(table: Float[Tensor, "V W"], first: int = FIRST) -> Initialiser:
    """Start each prompt token from a random row of the model's token embeddings.

    Rows are drawn without replacement from the `first` most common tokens, as in Lester et al.
    (2021); a table or a request larger than that is drawn with replacement.
    """

    def init(shape: tuple[int, int, int, int]) -> Tensor:
        n, sites, length, width = shape
        _check_width(table.shape[-1], width, sites)
        count, pool = n * length, min(first, table.shape[0])
        rows = torch.randperm(pool)[:count] if count <= pool else torch.randint(pool, (count,))
        return table.detach().float().cpu()[rows].view(shape).clone()

    return init


def from_labels(backbone: Any, words: Any) -> Initialiser:
    """Start each token from the mean embedding of a label's tokens, then from the vocabulary.

    Args:
        backbone: a text backbone with a tokenizer.
        words: of the classes, `cpool.language.LabelWords`; at each growth the names of the classes
            that come are read.
    """

    def init(shape: tuple[int, int, int, int]) -> Tensor:
        _, sites, length, width = shape
        embed = backbone.plain_model.get_input_embeddings()
        rows = from_vocabulary(backbone.word_table(FIRST))(shape)
        _check_width(rows.shape[-1], width, sites)
        for number, name in enumerate(words.of(words.coming)[:length]):
            ids = torch.tensor(
                words.tokenizer.encode(words.before + name, add_special_tokens=False)
            )
            with torch.no_grad():
                rows[:, 0, number] = embed(ids.to(embed.weight.device)).float().mean(dim=0).cpu()
        return rows

    return init


@dataclass(frozen=True)
class FromText:
    """An initialiser that starts a slot from a text.

    Attributes:
        length: how many tokens the text has.
        make: makes the values.
    """

    length: int
    make: Initialiser

    def __call__(self, shape: tuple[int, int, int, int]) -> Tensor:
        """Return values [n S P W]."""
        return self.make(shape)


def from_text(backbone: Any, text: str) -> FromText:
    """Start from the token embeddings of `text`: untouched, the slot computes the hard prompt.

    Where a tokenizer begins every text with a start token, that takes a site with after_start=True,
    behind that token; in front of it the words are another prompt.

    A text of fewer tokens than the prompt is repeated, a longer one is cut, as in PEFT. The copy
    is exact when the slot has as many tokens as the text: make the pool so long, or leave the text
    alone by `pool.shorten(slot, init.length)`, so that texts of different length share a pool.

    Args:
        backbone: a text backbone with a tokenizer.
        text: the hard prompt, not empty.
    """
    tokenizer = getattr(backbone, "processor", None)
    if not text.strip() or tokenizer is None or not hasattr(tokenizer, "encode"):
        raise DataError(
            expected="a hard prompt and a backbone with a tokenizer",
            got=f"{text!r} and {type(tokenizer).__name__}",
            remedy="Give a text that is not empty, and a text or causal backbone.",
        )
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))

    def init(shape: tuple[int, int, int, int]) -> Tensor:
        n, sites, length, width = shape
        embed = backbone.model.get_input_embeddings()
        with torch.no_grad():
            # The module is called, not its table read: some models scale inside it.
            rows: Tensor = embed(ids.to(embed.weight.device)).float().cpu()
        _check_width(rows.shape[-1], width, sites)
        rows = rows[torch.arange(length) % len(rows)]
        return rows.expand(n, 1, length, width).clone()

    return FromText(len(ids), init)


def from_text_cache(backbone: Any, text: str, *, after_start: bool = False) -> FromText:
    """Start a prefix on every layer from the keys and values that `text` has in a decoder.

    Untouched, in a decoder the slot computes the hard prompt: keys enter as the model would keep
    them in its cache, turned to the positions of the text, and the positions of what follows start
    after it. Where a tokenizer begins every text with a start token, that takes after_start=True,
    here and of the site. Of an encoder–decoder they are those with which the decoder repeats the
    text that its encoder has read: numbers that its attention has met, but no hard prompt.

    A text of fewer tokens than the prefix is repeated, a longer one is cut;
    `pool.shorten(slot, init.length)` leaves the text alone.

    Args:
        backbone: a frozen decoder or encoder–decoder with a tokenizer.
        text: the hard prompt, not empty.
        after_start: keep what is read behind the start token, if the tokenizer has one.
    """
    tokenizer = getattr(backbone, "processor", None)
    if not text.strip() or tokenizer is None or not backbone.has_words:
        raise DataError(
            expected="a hard prompt and a language model with a tokenizer",
            got=f"{text!r} and {type(tokenizer).__name__} of {backbone.name!r} ({backbone.kind})",
            remedy="Give a text that is not empty, and a model such as Llama, GPT-2 or T5.",
        )
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))

    def init(shape: tuple[int, int, int, int]) -> Tensor:
        n, sites, length, width = shape
        repeated = ids[torch.arange(length) % len(ids)]
        layers = backbone.read_of(repeated, after_start=after_start)
        rows = torch.stack([t[0].transpose(0, 1).flatten(1) for pair in layers for t in pair])
        if rows.shape != shape[1:]:
            raise PoolError(
                expected=f"a pool of prefixes on every layer, {tuple(rows.shape)} a slot",
                got=f"{(sites, length, width)}",
                remedy="Make the pool with PrefixSite of all layers.",
            )
        return rows.float().cpu().expand(n, -1, -1, -1).clone()

    return FromText(len(ids), init)


def from_slot(pool: "PromptPool", slot: int) -> Initialiser:
    """Start from a copy of `slot` (negative numbers count from the newest).

    Of a slot shorter than the pool the tokens are repeated; `grow(…, parent=slot)` makes the new
    slot as short.
    """
    return mean_of_slots(pool, [slot])


def mean_of_slots(pool: "PromptPool", slots: Sequence[int]) -> Initialiser:
    """Start from the mean of `slots`.

    Raises:
        PoolError: a slot does not exist (when called).
    """

    def init(shape: tuple[int, int, int, int]) -> Tensor:
        numbers = [pool.check_slot(slot) for slot in slots]
        lengths = sorted({pool.length_of(number) for number in numbers})
        if len(lengths) > 1:
            raise PoolError(
                expected="slots of one length, whose mean is taken",
                got=f"lengths {lengths}",
                remedy="Start from one slot, or from slots of one length.",
            )
        values = pool.read(torch.tensor(numbers)).detach().mean(dim=0)
        # A shorter slot is repeated, as a text is: its tokens first, so that it can be cut anew.
        values = values[:, torch.arange(values.shape[1]) % lengths[0]]
        copied: Tensor = values.expand(shape).clone()
        return copied

    return init


def _check_width(width: int, expected: int, sites: int) -> None:
    if width != expected or sites != 1:
        raise PoolError(
            expected=f"a pool at the embedding (1 site) of width {width}",
            got=f"{sites} sites of width {expected}",
            remedy="Start prefixes from uniform(), normal() or another slot instead.",
        )
