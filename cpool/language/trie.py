"""LabelTrie: labels as sequences of tokens in one tree, so that what they share is run once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpool.backbones.completions import continued
from cpool.errors import DataError

__all__ = ["End", "LabelTrie", "begins", "label_trie"]

End: TypeAlias = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class LabelTrie:
    """The tokens of C labels as a tree under the end of a text.

    A node is a proper beginning of some label, and has to be run: what follows it is predicted
    there. The last token of a label is predicted and never run.

    Attributes:
        names: the labels, in the order of the columns of their scores.
        sequences: the tokens of each.

    >>> trie = LabelTrie(("a b", "a c"), ((5, 6), (5, 7)))
    >>> trie.tokens, trie.parents, trie.edges
    ((5,), (-1,), ((-1, 5), (0, 6), (0, 7)))
    """

    names: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Refuse labels that nothing tells apart."""
        seen: dict[tuple[int, ...], str] = {}
        for name, sequence in zip(self.names, self.sequences, strict=True):
            if not sequence:
                raise DataError(
                    expected="labels of at least one token",
                    got=f"none in {name!r}",
                    remedy="Give the label a name that the tokenizer knows.",
                )
            if sequence in seen:
                raise DataError(
                    expected="labels that differ in their tokens",
                    got=f"{seen[sequence]!r} and {name!r}, which are the same "
                    f"token{'s' * (len(sequence) > 1)}",
                    remedy="Rename one of them.",
                )
            seen[sequence] = name

    @cached_property
    def _nodes(self) -> dict[tuple[int, ...], int]:
        starts = sorted({s[:i] for s in self.sequences for i in range(1, len(s))})
        return {start: number for number, start in enumerate(starts)}

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token of each of the K nodes."""
        return tuple(start[-1] for start in self._nodes)

    @property
    def parents(self) -> tuple[int, ...]:
        """The node above each node; −1 is the end of the text."""
        return tuple(self._nodes.get(start[:-1], -1) for start in self._nodes)

    @property
    def depths(self) -> tuple[int, ...]:
        """How many tokens of the label stand before each node."""
        return tuple(len(start) - 1 for start in self._nodes)

    @property
    def longest(self) -> int:
        """Tokens that are run at most in one label: positions that a text has to leave free."""
        return max(map(len, self.sequences), default=1) - 1

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The E predictions to be made: (node that predicts or −1, token)."""
        edges = {(self._nodes.get(s[:i], -1), s[i]) for s in self.sequences for i in range(len(s))}
        return tuple(sorted(edges))

    def ancestors(self) -> Bool[Tensor, "K K"]:
        """Return whether the node of a column is that of the row, or above it."""
        allowed = torch.eye(len(self._nodes), dtype=torch.bool)
        for number, parent in enumerate(self.parents):  # parents come before their children
            if parent >= 0:
                allowed[number] |= allowed[parent]
        return allowed

    def membership(self) -> Float[Tensor, "E C"]:
        """Return which predictions make up which label, as 0 and 1."""
        place = {edge: number for number, edge in enumerate(self.edges)}
        member = torch.zeros(len(self.edges), len(self.sequences))
        for column, s in enumerate(self.sequences):
            for i, token in enumerate(s):
                member[place[self._nodes.get(s[:i], -1), token], column] = 1.0
        return member

    def lengths(self) -> Int[Tensor, " C"]:
        """Return the number of tokens of each label."""
        return torch.tensor([len(sequence) for sequence in self.sequences])


def label_trie(
    names: Sequence[str], tokenizer: Any, *, before: str = " ", end: End = "auto"
) -> LabelTrie:
    """Return the trie of labels as a tokenizer writes them.

    Args:
        names: what the labels are called, each different.
        tokenizer: of the language model.
        before: what stands between the text and a label, and is its own tokens' start.
        end: whether the end-of-text token closes each label. It has to where one label is the
            beginning of another, since the shorter one would never be less probable: "auto" adds
            it to all labels then, and only then.

    Raises:
        DataError: labels without a token, or of the same tokens.
        ConfigError: no end-of-text token, where one is needed.
    """
    rows = _rows(names, tokenizer, before)
    trie, inner = LabelTrie(tuple(names), rows), begins(names, tokenizer, before)
    if end == "never" or (end == "auto" and not inner):
        return trie
    stop = tokenizer.eos_token_id
    if stop is None:
        raise DataError(
            expected="a tokenizer with an end-of-text token, which closes each label",
            got="none, and labels that begin other labels" if inner else "none",
            remedy="Set tokenizer.eos_token, or rename the labels.",
        )
    return LabelTrie(tuple(names), tuple((*row, stop) for row in rows))


def begins(names: Sequence[str], tokenizer: Any, before: str = " ") -> bool:
    """Return whether one label is, in its tokens, the beginning of another."""
    rows = _rows(names, tokenizer, before)
    starts = {row[:i] for row in rows for i in range(1, len(row))}
    return any(row in starts for row in rows)


def _rows(names: Sequence[str], tokenizer: Any, before: str) -> tuple[tuple[int, ...], ...]:
    return tuple(_row(before + name, tokenizer) if name.strip() else () for name in names)


@lru_cache(maxsize=4096)  # each step may ask for other labels of the same hundreds
def _row(words: str, tokenizer: Any) -> tuple[int, ...]:
    return continued(words, tokenizer)
