"""From texts to token ids: validation, truncation that is counted, padding."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from cpool.errors import DataError

__all__ = ["Around", "TruncationWarning", "Truncations", "checked", "prepare"]

# What stands before and after each text: the same for all, or what a function says of each.
Around: TypeAlias = tuple[str, str] | Callable[[Sequence[str]], Sequence[tuple[str, str]]]


class TruncationWarning(UserWarning):
    """Texts were longer than the model allows and lost their end."""


class Truncations:
    """Collects what several calls of `prepare` cut, to say it once.

    >>> cut = Truncations()
    >>> with cut.collect():
    ...     pass  # many batches are prepared here
    >>> cut.warn()
    """

    def __init__(self) -> None:
        self.texts: set[int] = set()
        self.limit = 0

    @contextmanager
    def collect(self, *, alone: bool = False) -> Iterator[None]:
        """Note the texts that are cut inside; within another such block, that one notes them.

        Args:
            alone: note them here also within another block, which then does not.
        """
        if _COLLECTOR.get() is not None and not alone:
            yield
            return
        token = _COLLECTOR.set(self)
        try:
            yield
        finally:
            _COLLECTOR.reset(token)

    @contextmanager
    def once(self) -> Iterator[None]:
        """Collect inside the block and warn at its end."""
        try:
            with self.collect():
                yield
        finally:
            self.warn()

    def warn(self) -> None:
        """Give one warning with the number of different texts that were cut, if any were."""
        if self.texts:
            warnings.warn(_said(len(self.texts), self.limit), TruncationWarning, stacklevel=3)
        self.texts, self.limit = set(), 0


_COLLECTOR: ContextVar[Truncations | None] = ContextVar("truncations", default=None)


def _said(count: int, limit: int) -> str:
    texts = "text was" if count == 1 else "texts were"
    return f"{count} {texts} longer than {limit} tokens; the end was cut."


def prepare(
    texts: Any,
    tokenizer: Any,
    max_tokens: int | None,
    around: Around = ("", ""),
    taken: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Tokenise texts and pad them to the longest, on the tokenizer's own side.

    Args:
        texts: a sequence of non-empty strings.
        tokenizer: a Hugging Face tokenizer.
        max_tokens: longer texts are cut to so many tokens, special tokens kept; None: never.
        around: what stands before and after each text, or a function that gets the texts and
            returns such a pair for each; only the text between is cut.
        taken: how many of `max_tokens` are taken by what stands beside each text; none by default.

    Raises:
        DataError: no texts, something that is not a text, or an empty one.
    """
    texts = checked(texts)
    pairs = around(texts) if callable(around) else [around] * len(texts)
    limit = _Limit(max_tokens, [0] * len(texts) if taken is None else list(taken))
    if any(map(any, pairs)):
        texts = _surrounded(texts, tokenizer, limit, pairs)
    rows = _tokenise(texts, tokenizer, limit)
    empty = [i for i, ids in enumerate(rows["input_ids"]) if not ids]
    if empty:
        raise DataError(
            expected="texts of at least one token",
            got=f"none in text {empty[0]}: {texts[empty[0]]!r}",
            remedy="Drop such texts or give the tokenizer a start token.",
        )
    return _pad(rows, tokenizer)


def checked(texts: Any) -> list[str]:
    """Return texts as a list.

    Raises:
        DataError: a single string, no texts, or one that is empty or none.
    """
    if isinstance(texts, str) or not hasattr(texts, "__len__") or not len(texts):
        raise DataError(
            expected="a sequence of texts, at least one",
            got=repr(texts)[:80],
            remedy='Put a single text into a list: ["…"].',
        )
    texts = list(texts)
    for i, item in enumerate(texts):
        if not isinstance(item, str) or not item.strip():
            raise DataError(
                expected="non-empty texts",
                got=f"{item!r} at position {i}"[:120],
                remedy="Drop empty texts, and turn other values into strings, before the stream.",
            )
    return [str(item) for item in texts]


class _Limit(NamedTuple):
    """Most tokens of a row, and how many of them are not the text's."""

    whole: int | None
    taken: Sequence[int]

    def of(self, row: int) -> int:
        """Return most tokens of a text; only where there is a limit."""
        assert self.whole is not None
        return self.whole - self.taken[row]

    def exceeded(self, lengths: Sequence[int]) -> list[int]:
        """Return which rows have more tokens."""
        if self.whole is None:
            return []
        return [i for i, length in enumerate(lengths) if length > self.of(i)]


def _surrounded(
    texts: list[str], tokenizer: Any, limit: _Limit, pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """Put words around each text, and cut those texts that would be too long with them."""
    whole = [f"{before}{text}{after}" for text, (before, after) in zip(texts, pairs, strict=True)]
    if limit.whole is None:
        return whole
    long = limit.exceeded([len(ids) for ids in tokenizer(whole, verbose=False)["input_ids"]])
    for i in long:
        whole[i] = _cut_inside(texts[i], tokenizer, limit.of(i), pairs[i])
    if long:
        _note([texts[i] for i in long], limit.whole)
    return whole


def _cut_inside(text: str, tokenizer: Any, limit: int, around: tuple[str, str]) -> str:
    before, after = around
    while True:
        whole = f"{before}{text}{after}"
        excess = len(tokenizer(whole, verbose=False)["input_ids"]) - limit
        if excess <= 0:
            return whole
        ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if len(ids) <= excess:
            raise DataError(
                expected=f"words around a text that leave room for it in {limit} tokens",
                got=f"{limit + excess - len(ids)} tokens of them",
                remedy="Shorten the template, the examples in it or the prompt.",
            )
        # Cut where a token ends, so that what is kept keeps its tokens.
        shorter = tokenizer.decode(ids[: len(ids) - excess])
        text = shorter if len(shorter) < len(text) else text[:-1]


def _note(texts: list[str], limit: int) -> None:
    """Remember that texts were cut, or say it at once where nobody collects."""
    collector = _COLLECTOR.get()
    if collector is None:
        warnings.warn(_said(len(texts), limit), TruncationWarning, stacklevel=5)
        return
    collector.texts.update(map(hash, texts))
    # Prompts may leave less room in one pass than in another: all were longer than the least.
    collector.limit = min(limit, collector.limit or limit)


def _tokenise(texts: list[str], tokenizer: Any, limit: _Limit) -> dict[str, list[list[int]]]:
    options: dict[str, Any] = {"padding": False, "return_attention_mask": False, "verbose": False}
    rows = {k: list(v) for k, v in tokenizer(texts, truncation=False, **options).items()}
    if limit.whole is None:
        return rows
    least = limit.whole - max(limit.taken)
    if least < 1 + tokenizer.num_special_tokens_to_add():
        raise DataError(
            expected="room for at least one token beside the special ones",
            got=f"max_tokens={least}",
            remedy="Use shorter prompts, or a model that takes longer inputs.",
        )
    long = limit.exceeded([len(ids) for ids in rows["input_ids"]])
    for i in long:
        cut = tokenizer([texts[i]], truncation=True, max_length=limit.of(i), **options)
        for key, values in rows.items():
            values[i] = cut[key][0]
    if long:
        _note([texts[i] for i in long], limit.whole)
    return rows


def _pad(rows: dict[str, list[list[int]]], tokenizer: Any) -> dict[str, Tensor]:
    lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
    width = int(lengths.max())
    places = torch.arange(width)
    left = getattr(tokenizer, "padding_side", "right") == "left"
    mask = places >= (width - lengths[:, None]) if left else places < lengths[:, None]
    # Padding is masked, so any id will do where there is no pad token (GPT-2, Llama).
    fill = {"input_ids": tokenizer.pad_token_id or 0}
    batch = {"attention_mask": mask.long()}
    for key in ("input_ids", "token_type_ids"):
        if key in rows:
            padded = torch.full(mask.shape, fill.get(key, 0))
            padded[mask] = torch.tensor([value for row in rows[key] for value in row])
            batch[key] = padded
    return batch
