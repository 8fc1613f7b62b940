"""Method: a frozen dataclass of hyper-parameters that builds a model on any backbone."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from cpool.backbones import Backbone
from cpool.errors import ConfigError
from cpool.model import PromptedModel
from cpool.settings import TrainSettings, is_number

__all__ = ["Method"]


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods.

    Class attributes:
        name: as in `cpool list methods` and in experiment files.
        summary: one line for people.
        train: the optimisation that its paper uses, the default of the learner.
        joint: whether it sees the data of all tasks at once (an upper bound, not a method).
        prompts: whether it uses prompts at all (else it is a baseline).
        closed_form: whether it is fitted without any step of optimisation.
        needs_task: whether it must be told the task of a sample at test.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    train: ClassVar[TrainSettings] = TrainSettings()
    joint: ClassVar[bool] = False
    prompts: ClassVar[bool] = True
    closed_form: ClassVar[bool] = False
    needs_task: ClassVar[bool] = False

    def build(self, backbone: Backbone) -> PromptedModel:
        """Build a new model on `backbone`, which stays as it is.

        New values are drawn from torch's generator: seed it (`cpool.seeding.seeded`).
        """
        model = self.compose(backbone)
        model.method = self
        model.compete(self.settings)
        return model

    @abstractmethod
    def compose(self, backbone: Backbone) -> PromptedModel:
        """Put the parts together."""

    @property
    def settings(self) -> TrainSettings:
        """How this method is trained unless told otherwise."""
        return type(self).train

    @property
    def trains(self) -> bool:
        """Whether it has steps of optimisation; closed-form methods have none."""
        return not type(self).closed_form

    @property
    def without_past(self) -> str | None:
        """Why it makes no sense on all tasks at once, or None where it makes sense."""
        return None

    def hyper_parameters(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def need(self, right: bool, key: str, expected: str) -> None:
        """Raise ConfigError about one hyper-parameter unless `right`."""
        if not right:
            raise ConfigError(
                expected=f"{key} {expected}",
                got=repr(getattr(self, key)),
                remedy=f"Change {key} of the method {self.name!r}.",
            )

    def need_layers(self, key: str, *, some: bool = True) -> None:
        """Raise ConfigError unless a field names each layer once.

        Args:
            key: the field: layer numbers, or None where that is its default.
            some: whether at least one has to be named.
        """
        layers = getattr(self, key)
        right = layers is None or (len(layers) >= some and len(set(layers)) == len(layers))
        free = " or None" if type(self).__dataclass_fields__[key].default is None else ""
        least = "at least one layer, each once" if some else "each layer once"
        self.need(right, key, f"with {least}{free and ','}{free}")

    def need_ridge(self) -> None:
        """Raise ConfigError unless `ridge` is a penalty, or a way to choose one."""
        ridge = vars(self)["ridge"]
        right = ridge in ("auto", "left_out") or (is_number(ridge) and ridge > 0)
        self.need(right, "ridge", 'above 0 and finite, "auto" or "left_out"')
