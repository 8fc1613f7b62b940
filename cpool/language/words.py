"""LabelWords: what the classes seen so far are called, as tokens of a language model."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cpool.errors import ConfigError, DataError, StateError
from cpool.language.trie import End, LabelTrie, begins, label_trie

__all__ = ["LabelWords", "check_readable", "readable"]


class LabelWords:
    """The words of a growing number of classes, shared by what scores them and what names them.

    Args:
        tokenizer: of the language model.
        names: what class number i is called; given later by `name` when None.
        before: what stands between the text and a label.
        end: whether the end-of-text token closes each label, as in `label_trie`; "auto" looks at
            all names that are known, also of classes to come, so that the score of a class stays
            when they come. Names that are added by `more` may change it: use "always" there.

    Attributes:
        classes: those to score, in the order of the columns.
        coming: those of the newest task, from which a prompt may start.
    """

    def __init__(
        self,
        tokenizer: Any,
        names: Sequence[str] | None = None,
        *,
        before: str = " ",
        end: End = "auto",
    ) -> None:
        if tokenizer is None or not hasattr(tokenizer, "encode"):
            raise ConfigError(
                expected="a backbone with a tokenizer, whose words labels are",
                got=f"{type(tokenizer).__name__}",
                remedy="Use a language model; to a model of your own give its tokenizer with "
                "`wrap_model(model, tokenizer)`.",
            )
        self.tokenizer, self.before, self.end = tokenizer, before, end
        self.names = None if names is None else tuple(names)
        self.classes: list[int] = []
        self.coming: list[int] = []

    def name(self, names: Sequence[str]) -> None:
        """Call the classes by these names, unless they were named before.

        Raises:
            DataError: two names that are the same words.
        """
        if self.names is None:
            check_readable(names)
            self.names = tuple(readable(name) for name in names)

    def more(self, names: Sequence[str]) -> None:
        """Give names to further classes; those that have one keep it.

        Raises:
            DataError: a name that is the same words as another.
        """
        known = self.names or ()
        check_readable([*known, *names])
        self.names = (*known, *map(readable, names))

    def of(self, classes: Sequence[int]) -> list[str]:
        """Return the names of classes.

        Raises:
            StateError: nobody said what they are called.
            DataError: a class without a name.
        """
        if not classes:
            return []
        if self.names is None:
            raise StateError(
                expected="names of the classes, which the language model scores",
                got="none",
                remedy="Pass labels=[…] to the method, call model.name_classes([…]), or train on a "
                "stream, which has names.",
            )
        nameless = [c for c in classes if not 0 <= c < len(self.names)]
        if nameless:
            raise DataError(
                expected=f"classes from 0 to {len(self.names) - 1}, those that have names",
                got=f"class {nameless[0]}",
                remedy="Name every class in labels=[…], in the order of their numbers.",
            )
        return [self.names[c] for c in classes]

    def expect(self, classes: Sequence[int]) -> None:
        """Take note of the classes of a task to come, after checking their words.

        Raises:
            StateError, DataError: as `of` and `label_trie`.
        """
        new = [c for c in classes if c not in self.classes]
        _trie(self.tokenizer, tuple(self.of([*self.classes, *new])), self.before, self._closed())
        self.coming = list(classes)

    @property
    def trie(self) -> LabelTrie:
        """The words of `classes`."""
        return self.trie_of(self.classes)

    def trie_of(self, classes: Sequence[int]) -> LabelTrie:
        """Return the words of some of the classes, each the same tokens as among all of them."""
        names = tuple(self.of(classes))
        return _trie(self.tokenizer, names, self.before, self._closed())

    def _closed(self) -> End:
        """Decide about the end over all names, also those of classes to come: scores must stay."""
        if self.end != "auto" or self.names is None:
            return self.end
        return _closing(self.tokenizer, self.names, self.before)

    def __repr__(self) -> str:
        """Say what is scored: features of a pass depend on it."""
        return f"LabelWords({self.of(self.classes)}, {self.before!r}, {self._closed()!r})"


@lru_cache(maxsize=32)
def _trie(tokenizer: Any, names: tuple[str, ...], before: str, end: End) -> LabelTrie:
    return label_trie(names, tokenizer, before=before, end=end)


@lru_cache(maxsize=32)
def _closing(tokenizer: Any, names: tuple[str, ...], before: str) -> End:
    return "always" if begins(names, tokenizer, before) else "never"


def check_readable(names: Sequence[str]) -> None:
    """Refuse two names of a data set that are the same words.

    Raises:
        DataError: with both as the data has them.
    """
    seen: dict[str, str] = {}
    for name in names:
        words = readable(name)
        if words in seen:
            raise DataError(
                expected="labels that differ as words",
                got=f"{seen[words]!r} and {name!r}, which are both read as {words!r}",
                remedy="Rename one of them, or make them one label.",
            )
        seen[words] = name


def readable(name: str) -> str:
    """Return a name of a data set as words.

    >>> readable("AddToPlaylist"), readable("pto_request_status"), readable("PIN blocked?")
    ('add to playlist', 'pto request status', 'PIN blocked?')
    """
    spaced = re.sub(r"[_\s]+", " ", name).strip()
    if " " not in spaced and re.search("[a-z][A-Z]", spaced):
        spaced = re.sub("(?<=[a-z0-9])(?=[A-Z])", " ", spaced).lower()
    return spaced
