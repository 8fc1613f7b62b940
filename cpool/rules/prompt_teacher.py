"""PromptTeacher: a prompt trained on a task alone teaches the prompt that shares with others."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.errors import ConfigError, DataError
from cpool.inject import encode
from cpool.rule import Rule
from cpool.rules.distillation import distance
from cpool.settings import is_whole

__all__ = ["PromptTeacher", "state_distance"]


class PromptTeacher(Rule):
    r"""`λ (KL(p_T(· | x) ‖ p(· | x)) + mean (h_T(x) − h(x))²)`, T a prompt for the task alone.

    p is the softmax of the scores over the classes of the task, h the final hidden states of the
    real tokens (Wang et al., *Multitask prompt tuning*, ICLR 2023, section 3.2; there p is over
    words, and the squares are summed). Before a task is learned its teacher is: as many epochs
    over the task's data, Adam, gradients clipped to norm 1. It is let go when the task ends, and is
    no part of the model's state. A step runs the text three times more.

    Args:
        make: returns a model with a prompt of its own, as long as the student's.
        tasks: how many tasks have a teacher, the first ones.
        strength: λ; 0.9 in the paper.
        epochs: of a teacher.
        lr: of a teacher.
    """

    needs_start: ClassVar[bool] = True
    needs_inputs: ClassVar[bool] = True

    def __init__(
        self, make: Callable[[], Any], *, tasks: int, strength: float, epochs: int, lr: float
    ) -> None:
        super().__init__()
        if not (is_whole(epochs) and epochs >= 1 and strength >= 0 and lr > 0):
            raise ConfigError(
                expected="at least 1 epoch, a strength of at least 0 and lr above 0",
                got=f"epochs={epochs}, strength={strength}, lr={lr}",
                remedy="The paper weighs a teacher with 0.9.",
            )
        self.make, self.tasks, self.strength = make, tasks, strength
        self.epochs, self.lr = epochs, lr
        # A tuple hides the teacher from the module tree: it is not trained, moved or stored.
        self._teacher: tuple[Any, ...] = ()

    @torch.enable_grad()
    def before(
        self, model: Any, batches: Iterable[Mapping[str, Tensor]], classes: list[int], task: int
    ) -> None:
        """Train the teacher of a task."""
        self._teacher = ()
        if task >= self.tasks:
            return
        teacher = self.make().to(model.backbone.device)
        if model.head.words.names is not None:
            teacher.name_classes(model.head.words.names)
        teacher.begin_task(classes)
        parameters = list(teacher.parameters())
        optimizer = torch.optim.Adam(parameters, self.lr)
        for _ in range(self.epochs):
            for batch in batches:
                loss = teacher(batch, task=0).loss
                if not torch.isfinite(loss):
                    raise DataError(
                        expected="a finite loss of the teacher",
                        got=f"{float(loss.detach())}",
                        remedy="Lower teacher_lr.",
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
        self._teacher = (teacher.eval().requires_grad_(False),)

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return how far the student is from the teacher of its task."""
        if not self._teacher:
            return {}
        (teacher,) = self._teacher
        with torch.no_grad():
            said = teacher.answer(batch, 0).logits.float()
            shown = _states(teacher, batch, 0)
        columns = model.head.columns(torch.tensor(teacher.classes, device=said.device))
        answers = distance(output.logits[:, columns].float(), said, 1.0)
        states = state_distance(*_states(model, batch, task), shown[0])
        return {"teacher": self.strength * (answers + states)}

    def end(self, model: Any, *_: Any, **__: Any) -> None:
        """Let the teacher go."""
        self._teacher = ()


def _states(
    model: Any, batch: Mapping[str, Tensor], task: int | None
) -> tuple[Float[Tensor, "B T D"], Tensor]:
    """Return the final states behind the model's own prompts, and which are of real tokens."""
    query = model.query(batch) if model.needs_query else None
    prompts = model.passes.choose(query, task, len(batch["input_ids"]))
    encoded = encode(model.backbone, batch, prompts, all_layers=False)
    return encoded.hidden_states[-1], encoded.mask


def state_distance(
    now: Float[Tensor, "B T D"], real: Tensor, then: Float[Tensor, "B T D"]
) -> Float[Tensor, ""]:
    """Return the mean over real tokens and their D numbers of the squared difference.

    >>> one, two = torch.tensor([[[3.0], [9.0]]]), torch.tensor([[[1.0], [0.0]]])
    >>> state_distance(one, torch.tensor([[True, False]]), two)
    tensor(4.)
    """
    squares = (now.float() - then.float()).square().mean(dim=2)
    weight = real.to(squares)
    return (squares * weight).sum() / weight.sum().clamp_min(1)
