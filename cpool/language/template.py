"""Template: the words around a text that tell a language model what to do with it (a hard prompt).

Templates are Jinja, rendered in its sandbox: `{{ text }}` is where the text goes, `labels` are the
names of the classes, `examples` a list with a `text` and a `label` each.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from cpool.errors import ConfigError

__all__ = ["MARK", "Template", "TemplateLike"]

# A text that no template contains: it marks where the real one goes.
MARK = "\ue000text\ue001"


class Template:
    r"""A hard prompt.

    Args:
        source: Jinja with `{{ text }}` in it, once.

    Raises:
        ConfigError: no or several places for the text, an unknown name, or no valid Jinja.

    >>> Template("{{ text }}\nIntent:").around()
    ('', '\nIntent:')
    >>> Template("One of {{ labels | join(', ') }}. {{ text }} =>").around(["yes", "no"])
    ('One of yes, no. ', ' =>')
    """

    def __init__(self, source: str) -> None:
        self.source = source
        labels, shown = ["one", "two"], [{"text": "a text", "label": "one"}]
        before, after = self.around(labels, shown)
        # What a filter or a test does to a text would be done to its mark alone.
        sample = " ".join(["Some words of a longer text, 1 to 9."] * 9)
        whole = _compiled(source).render(text=sample, labels=labels, examples=shown)
        if whole != before + sample + after:
            raise self._wrong("filters or tests on it, which would not see the text")

    @classmethod
    def read(cls, path: str | Path) -> "Template":
        """Read a template from a file; one newline at its end does not count."""
        try:
            source = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                expected="a template file in UTF-8",
                got=f"{path}: {getattr(error, 'strerror', None) or error}",
                remedy="Check the path.",
            ) from error
        return cls(source.removesuffix("\n"))

    @classmethod
    def of(cls, given: "TemplateLike") -> "Template":
        """Return a template that is given as its words, as the path of its file, or as itself.

        A text is always words: a file is a `pathlib.Path`.
        """
        if isinstance(given, Template):
            return given
        return cls.read(given) if isinstance(given, Path) else cls(given)

    def around(
        self, labels: Sequence[str] = (), examples: Sequence[Mapping[str, str]] = ()
    ) -> tuple[str, str]:
        """Return what stands before and after the text.

        Args:
            labels: names of the classes.
            examples: solved examples, each with "text" and "label".
        """
        from jinja2 import TemplateError, UndefinedError

        try:
            made = _compiled(self.source).render(text=MARK, labels=labels, examples=examples)
        except (TemplateError, UndefinedError, TypeError, ValueError) as error:
            raise self._wrong(f"{type(error).__name__}: {error}") from error
        parts = made.split(MARK)
        if len(parts) != 2:
            raise self._wrong(f"{len(parts) - 1} places for it")
        return parts[0], parts[1]

    def _wrong(self, got: str) -> ConfigError:
        return ConfigError(
            expected="a Jinja template with {{ text }} in it once, and no names beside text, "
            "labels and examples",
            got=f"{self.source!r}: {got}",
            remedy="Write for instance '{{ text }}\\nIntent:'.",
        )

    def __eq__(self, other: object) -> bool:
        """Templates are equal when their sources are."""
        return isinstance(other, Template) and other.source == self.source

    def __hash__(self) -> int:
        """Hash the source."""
        return hash(self.source)

    def __repr__(self) -> str:
        """Show the source."""
        return f"Template({self.source!r})"


TemplateLike: TypeAlias = str | Path | Template
"""What `Template.of` takes."""


@lru_cache(maxsize=128)
def _compiled(source: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    options: dict[str, Any] = {"keep_trailing_newline": True, "undefined": StrictUndefined}
    return SandboxedEnvironment(**options).from_string(source)
