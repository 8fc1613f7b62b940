"""Surround: a template filled with what is known by now, as words before and after a text."""

from collections.abc import Callable, Mapping, Sequence

from cpool.language.template import Template
from cpool.language.words import LabelWords

__all__ = ["Surround"]


class Surround:
    """The words around every text of a model; they change when labels or examples come.

    Args:
        template: with a place for the text.
        words: of the classes seen so far.

    Attributes:
        examples: gives the solved examples to show, each with "text" and "label"; none by default.
    """

    def __init__(self, template: Template, words: LabelWords) -> None:
        self.template, self.words = template, words
        self.examples: Callable[[], Sequence[Mapping[str, str]]] = tuple

    def around(self) -> tuple[str, str]:
        """Return what stands before and after a text."""
        return self.template.around(self.words.of(self.words.classes), self.examples())
