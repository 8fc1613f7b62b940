"""Surround: a template filled with what is known by now, as words before and after a text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cpool.backbones import Around
from cpool.language.chat import in_chat
from cpool.language.template import Template
from cpool.language.words import LabelWords

__all__ = ["Chooser", "Surround"]


class Chooser(Protocol):
    """What chooses solved examples for each text."""

    @property
    def version(self) -> str:
        """What the choice depends on beside the text, in short."""

    def choose(self, texts: Sequence[str]) -> Sequence[Sequence[Mapping[str, str]]]:
        """Return the examples of each text, each with "text" and "label"."""


class Surround:
    """The words around every text of a model; they change when labels or examples come.

    Args:
        template: with a place for the text.
        words: of the classes seen so far.
        chat: make all of it a user's turn, after which the assistant's begins.

    Attributes:
        examples: gives the solved examples to show, each with "text" and "label"; none by default.
        chooser: chooses examples for each text, in place of those; None by default.
    """

    def __init__(self, template: Template, words: LabelWords, *, chat: bool = False) -> None:
        self.template, self.words, self.chat = template, words, chat
        if chat:
            in_chat(words.tokenizer, "", "")  # refuses a tokenizer that cannot
        self.examples: Callable[[], Sequence[Mapping[str, str]]] = tuple
        self.chooser: Chooser | None = None

    def around(self) -> Around:
        """Return what stands before and after a text, or the function that tells it of each."""
        return self._filled(self.examples()) if self.chooser is None else self._each

    def _each(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        assert self.chooser is not None
        return [self._filled(examples) for examples in self.chooser.choose(texts)]

    def _filled(self, examples: Sequence[Mapping[str, str]]) -> tuple[str, str]:
        before, after = self.template.around(self.words.of(self.words.classes), examples)
        return in_chat(self.words.tokenizer, before, after) if self.chat else (before, after)

    def __repr__(self) -> str:
        """Say what is put around a text: features of a pass depend on it."""
        if self.chooser is None:
            return f"Surround({self.around()})"
        names = self.words.of(self.words.classes)
        said = in_chat(self.words.tokenizer, "", "") if self.chat else None
        return f"Surround({self.template.source!r}, {names}, {said}, {self.chooser.version})"
