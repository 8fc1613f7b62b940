"""SessionHead: a head for training that is thrown away, and one that is fitted at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from cpool.heads.base import Head

__all__ = ["SessionHead"]


class SessionHead(Head):
    """In training a probe answers, which goes when the task ends; then a closed-form head does.

    Prompts need a gradient, a closed-form head gives none: so a prompt is trained through a probe
    over the classes of its task, and only what it does to the features stays.

    Args:
        lasting: the head that is fitted on the features of every task.
        probe: makes a probe for a task.
        sessions: how many of the first tasks train; all by default.
    """

    fits = True

    def __init__(
        self, lasting: Head, probe: Callable[[], Head], *, sessions: int | None = None
    ) -> None:
        super().__init__(lasting.feature_size)
        self.lasting, self.make, self.sessions = lasting, probe, sessions
        self.probe: Head | None = None
        self.training_session = True
        self.over = False  # whether what sessions train is there, before any task of one's own

    def _open(self) -> bool:
        return not self.over and (self.sessions is None or len(self.groups) <= self.sessions)

    @property
    def starts(self) -> bool:  # type: ignore[override]
        """Whether the probe of the task to come looks at its features."""
        return self._open() and self.make().starts

    @property
    def routed(self) -> bool:  # type: ignore[override]
        """Whether the lasting head takes the slot of each sample."""
        return self.lasting.routed

    def begin_task(self, classes: Sequence[int]) -> None:
        """Tell the lasting head, and make a new probe while tasks train."""
        self.lasting.begin_task(classes)
        self.classes, self.groups = self.lasting.classes, self.lasting.groups
        self.probe = None
        if self.training_session and self._open():
            self.probe = self.make()
            self.probe.to(next(self.lasting.buffers()).device)
            self.probe.begin_task(self.lasting.classes)

    def grow(self, n: int) -> None:
        """Leave it to the lasting head, which has grown."""

    def start(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Start the probe."""
        if self.probe is not None and self.probe.starts:
            self.probe.start(features, labels)

    def fit(self, features: Float[Tensor, "n F"], labels: Int[Tensor, " n"]) -> None:
        """Throw the probe away, and fit the lasting head."""
        self.probe = None
        self.lasting.fit(features, labels)

    def forward(
        self, features: Float[Tensor, "B F"], expert: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Answer with the probe in training, with the lasting head otherwise."""
        if self.probe is not None:
            return self.probe(features)  # type: ignore[no-any-return]
        if self.lasting.routed:
            return self.lasting(features, expert)  # type: ignore[no-any-return]
        return self.lasting(features)  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Become a head without classes; sessions that were trained are over."""
        done = self.sessions is not None and len(self.groups) >= self.sessions
        self.over = self.over or done
        self.lasting.clear()
        self._follow()

    def join(self, other: Head) -> None:
        """Let the lasting head learn what that of another has learned."""
        assert isinstance(other, SessionHead)
        self.lasting.join(other.lasting)
        self._follow()

    def forget(self, task: int, tasks: Sequence[Sequence[int]]) -> None:
        """Let the lasting head forget a task."""
        self.lasting.forget(task, tasks)
        self._follow()

    def _follow(self) -> None:
        self.classes, self.groups, self.probe = self.lasting.classes, self.lasting.groups, None

    def layout(self) -> dict[str, Any]:
        """Return that of the lasting head, and whether sessions are over."""
        return {**self.lasting.layout(), **({"over": True} if self.over else {})}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make the tensors of the lasting head."""
        self.lasting.restore(layout)
        self.over = bool(layout.get("over"))
        self._follow()
