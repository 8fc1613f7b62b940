"""Distillation: what the model said of a sample before the task, it shall still say."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import ConfigError
from cpool.rule import Rule

__all__ = ["Distillation", "distance"]


class Distillation(Rule):
    """`λ · KL(softmax(z_old / T) ‖ softmax(z / T))` over the classes known before the task.

    z_old are the logits of the model as it was before the task, in eval mode, on the samples of
    the step. For that a copy of the head, and where the trunk trains a frozen copy of the trunk,
    are in memory while the task lasts; they are no part of the model's state.

    Args:
        strength: λ.
        temperature: T.
    """

    needs_logits: ClassVar[bool] = True

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        if strength < 0 or temperature <= 0:
            raise ConfigError(
                expected="a strength of at least 0 and a temperature above 0",
                got=f"strength={strength}, temperature={temperature}",
                remedy="The paper has 1 and 2.",
            )
        self.strength, self.temperature = strength, temperature
        # A tuple hides the teacher from the module tree: it is not trained, moved or stored.
        self._teacher: tuple[Any, Any, int] | None = None

    def begin(self, model: Any, task: int) -> None:
        """Copy what answered before the task; at the first task there is nothing."""
        if model.prompter is not None:
            raise ConfigError(
                expected="a model without prompts, whose trunk and head are all that trains",
                got="one with prompts",
                remedy="Distil a model with tune='all' or tune='head'.",
            )
        known = len(model.head.classes) - len(model.head.groups[-1])
        if not known:
            return
        trunk = copy.deepcopy(model.trunk)
        if trunk is not None:
            trunk.eval().requires_grad_(False)
            trunk.frozen = True  # from here on it stays in eval mode and gives no gradient
        head = copy.deepcopy(model.head).eval().requires_grad_(False)
        self._teacher = (trunk, head, known)

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the distance to the old model's answer, once there is an old model."""
        if self._teacher is None:
            return {}
        trunk, head, known = self._teacher
        with torch.no_grad():
            features = output.features.detach() if trunk is None else trunk.features(batch)
            said = head(features)[:, :known].to(output.logits.device)
        now = output.logits[:, :known].float()
        return {"distillation": self.strength * distance(now, said.float(), self.temperature)}

    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Let the old model go."""
        self._teacher = None


def distance(
    now: Float[Tensor, "B c"], then: Float[Tensor, "B c"], temperature: float
) -> Float[Tensor, ""]:
    """Return the mean over samples of `KL(softmax(then / T) ‖ softmax(now / T))`.

    >>> distance(torch.zeros(1, 2), torch.zeros(1, 2), 2.0)
    tensor(0.)
    """
    target = F.log_softmax(then / temperature, dim=1)
    said = F.log_softmax(now / temperature, dim=1)
    return F.kl_div(said, target, reduction="batchmean", log_target=True)
