"""DarkRehearsal: remembered samples with the logits that the model once gave them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.rule import Rule
from cpool.rules.memory import Memory, inputs_of, opened

__all__ = ["DarkRehearsal", "logit_distance"]


class DarkRehearsal(Rule):
    """`α · distance(z(x′), z′) + β · CE(z(x″), y″)`, x′ and x″ two draws from the memory.

    z′ are the logits that the step at which x′ came gave it (in training, dropout and all), so
    the memory samples the whole way of the optimisation; it is a reservoir over the steps, and a
    sample that came in two epochs may be in it twice, with two answers.

    Args:
        size: of the memory, in samples.
        alpha: α, weight of the logits.
        beta: β, weight of the labels; 0 gives DER.
        batch: samples of a draw; as many as the step's own batch by default.
    """

    needs_inputs: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True

    def __init__(self, size: int, *, alpha: float, beta: float, batch: int | None = None) -> None:
        super().__init__()
        self.memory, self.batch = Memory(size), batch
        self.alpha, self.beta = alpha, beta

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return both terms, then remember this step's samples with its logits."""
        terms = {}
        labels, size = batch["labels"], self.batch or len(batch["labels"])
        if len(self.memory):
            first = opened(self.memory.draw(size))
            logits, columns = first.pop("logits"), first.pop("columns")
            now = model.answer(first, task, mask="seen").logits
            terms["dark"] = self.alpha * logit_distance(now.float(), logits, columns)
            if self.beta:
                second = opened(self.memory.draw(size))
                answer = model.answer(second, task, mask="seen")
                terms["replay"] = self.beta * answer.losses["cross_entropy"]
        said = output.logits.detach().float()
        columns = torch.full((len(said),), said.shape[1], device=said.device)
        self.memory.add({**inputs_of(model, batch), "logits": said, "columns": columns}, labels)
        return terms

    def layout(self) -> dict[str, Any]:
        """Return that of the memory."""
        return self.memory.layout()

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the memory."""
        self.memory.restore(layout)


def logit_distance(
    now: Float[Tensor, "B C"], then: Float[Tensor, "B c"], columns: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the mean over samples of the mean squared difference over their own columns.

    Args:
        now: the logits.
        then: the stored logits, filled with anything behind their columns.
        columns: how many classes each stored row knew.

    >>> logit_distance(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0]]), torch.tensor([1]))
    tensor(4.)
    """
    width = then.shape[1]
    known = torch.arange(width, device=then.device) < columns[:, None]
    squares = (now[:, :width] - then).square().masked_fill(~known, 0.0)
    return (squares.sum(dim=1) / columns).mean()
