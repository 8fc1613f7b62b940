"""Joint: another method trained on all tasks at once; the upper bound."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cpool.backbones import Backbone
from cpool.errors import ConfigError, unknown
from cpool.language import Template
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.settings import TrainSettings

__all__ = ["Joint"]


@dataclass(frozen=True)
class Joint(Method):
    """Train the method `of` once on the data of all tasks, as if there were no stream.

    Methods that do nothing but guard what earlier tasks taught (their `without_past` names what is
    left of them) are refused: with all data at once there is nothing to guard.

    Where the protocol tells the task of a test sample (task-incremental), it is told the classes of
    the task: only these compete, as for every other method.

    Only the last row of its accuracy matrix exists: there is no "after task t" in between, so
    forgetting and its like are not defined for it, and are null in the results.

    Attributes:
        of: the name of a method.
        options: hyper-parameters of that method that differ from its defaults.
    """

    name: ClassVar[str] = "joint"
    summary: ClassVar[str] = "upper bound: a named method trained on all tasks at once"
    joint: ClassVar[bool] = True
    prompts: ClassVar[bool] = False

    of: str = "fine_tune"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take templates as their words, which is what a checkpoint records."""
        object.__setattr__(self, "options", _worded(dict(self.options)))

    @property
    def inner(self) -> Method:
        """The method that is trained.

        Raises:
            UnknownNameError: no such method.
            ConfigError: its joint training would be that of another method.
        """
        from cpool.methods import METHODS, method_from  # the registry imports this file

        if self.of not in METHODS or self.of == self.name:
            raise unknown("method", self.of, [name for name in METHODS if name != self.name])
        method = method_from(self.of, self.options)
        left: str | None = getattr(method, "without_past", None)
        if left is not None:
            raise ConfigError(
                expected="a method whose joint training is something of its own",
                got=f"{self.of!r}, which guards what earlier tasks taught: here there are none",
                remedy=f"Use of = {left!r}, which trains the same weights.",
            )
        return method

    @property
    def settings(self) -> TrainSettings:
        """Those of the method that is trained."""
        return self.inner.settings

    @property
    def trains(self) -> bool:
        """Whether the method that is trained has steps of optimisation."""
        return self.inner.trains

    def compose(self, backbone: Backbone) -> PromptedModel:
        """The model of the method that is trained."""
        return self.inner.compose(backbone)


def _worded(value: Any) -> Any:
    """Return options in which templates and files of templates are their words."""
    if isinstance(value, Path | Template):
        return Template.of(value).source
    if isinstance(value, dict):
        return {key: _worded(inner) for key, inner in value.items()}
    return type(value)(map(_worded, value)) if isinstance(value, tuple | list) else value
