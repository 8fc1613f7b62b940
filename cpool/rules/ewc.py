"""ElasticPenalty: parameters that mattered for earlier tasks are held by springs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.errors import ConfigError
from cpool.heads import anchored
from cpool.rule import Rule

__all__ = ["ElasticPenalty", "fisher_diagonal"]

Labels = Literal["model", "data"]


class ElasticPenalty(Rule):
    """`λ/2 Σ_t Σ_i F_t,i (θ_i − θ*_t,i)²` over the tasks before, θ*_t the weights after task t.

    Online (Schwarz et al., 2018) there is one penalty, `F ← γ F + F_t`, around the newest weights.
    What did not exist at the end of task t, such as the head's rows of later classes, has no
    spring in its penalty. Both F and θ* are buffers, 8 bytes a parameter: for each task apart, or
    once online.

    Args:
        strength: λ.
        online: one penalty instead of one a task.
        decay: γ, only online.
        labels: see `fisher_diagonal`.
        samples: how many samples F is a mean over; all of the task when None.
    """

    needs_end: ClassVar[bool] = True

    def __init__(
        self,
        strength: float,
        *,
        online: bool = False,
        decay: float = 1.0,
        labels: Labels = "model",
        samples: int | None = 200,
    ) -> None:
        super().__init__()
        few = samples is not None and samples < 1
        if strength < 0 or not 0 <= decay <= 1 or labels not in ("model", "data") or few:
            raise ConfigError(
                expected='strength from 0, decay from 0 to 1, labels "model" or "data", samples '
                "from 1",
                got=f"strength={strength}, decay={decay}, labels={labels!r}, samples={samples}",
                remedy="Change the one that does not fit.",
            )
        self.strength, self.online, self.decay = strength, online, decay
        self.labels, self.samples = labels, samples
        # A penalty's F and θ* are one vector each; here is which piece belongs to which weight.
        self.pieces: list[dict[str, int]] = []
        self.register_buffer("place", torch.zeros(0), persistent=False)  # knows the device

    def loss(
        self, model: Any, batch: Mapping[str, Tensor], output: Any, task: int | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the penalty, from the second task on."""
        if not self.pieces:
            return {}
        now = dict(model.named_parameters())
        terms = []
        for number in range(len(self.pieces)):
            for name, (fisher, anchor) in self._springs(number).items():
                if name in now:
                    terms.append((fisher * (now[name].flatten() - anchor).square()).sum())
        return {"ewc": self.strength / 2 * torch.stack(terms).sum()}

    def _springs(self, number: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return F and θ* of one penalty by the name of the parameter."""
        sizes = list(self.pieces[number].values())
        fisher = torch.split(self.get_buffer(f"fisher{number}"), sizes)
        anchor = torch.split(self.get_buffer(f"anchor{number}"), sizes)
        return dict(zip(self.pieces[number], zip(fisher, anchor, strict=True), strict=True))

    def end(
        self,
        model: Any,
        batches: Iterable[Mapping[str, Tensor]],
        features: Float[Tensor, "n F"] | None,
        labels: Int[Tensor, " n"] | None,
        task: int,
    ) -> None:
        """Measure F of the task at the weights that it ended with."""
        with model.passes.alone():
            fisher = fisher_diagonal(
                model, list(batches), task, labels=self.labels, samples=self.samples
            )
        number = len(self.pieces)
        if self.online and self.pieces:
            number = 0
            for name, (old, _) in self._springs(0).items():
                fisher[name] = self.decay * old.view_as(fisher[name]) + fisher[name]
        weights = dict(model.named_parameters())
        self._make(number, {name: value.numel() for name, value in fisher.items()})
        for name, (spring, anchor) in self._springs(number).items():
            spring.copy_(fisher[name].flatten())
            anchor.copy_(weights[name].detach().flatten())

    def _make(self, number: int, pieces: Mapping[str, int]) -> None:
        """Make room for a penalty, or for one in the place of another."""
        self.pieces[number:] = [dict(pieces)]
        for kind in ("fisher", "anchor"):
            values = self.get_buffer("place").new_zeros(sum(pieces.values()))
            self.register_buffer(f"{kind}{number}", values)

    def layout(self) -> dict[str, Any]:
        """Return the names and sizes of the parameters of each penalty."""
        return {"pieces": self.pieces}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make room for the penalties of `layout`."""
        for number, pieces in enumerate(layout["pieces"]):
            self._make(number, pieces)


def fisher_diagonal(
    model: Any,
    batches: Sequence[Mapping[str, Tensor]],
    task: int,
    *,
    labels: Labels = "model",
    samples: int | None = None,
) -> dict[str, Tensor]:
    """Return `F_i = mean_x (∂ log p(y | x) / ∂θ_i)²`, sample by sample, for all that trains.

    With y drawn from the model's own p(y | x) this estimates the Fisher information; with the
    labels of the data it is the "empirical Fisher" of most codes. p is over the classes that
    compete in training: those of the task, or all seen.

    Args:
        model: the prompted model, in eval mode.
        batches: the task's data.
        task: its number.
        labels: "model" or "data".
        samples: how many of the data, at random; all when None.
    """
    weights = dict(model.named_parameters())
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    chosen = _chosen([len(batch["labels"]) for batch in batches], samples)
    told = task if model.mask == "task" else None
    for batch, rows in zip(batches, chosen, strict=True):
        for row in rows:
            one = {name: value[row : row + 1] for name, value in batch.items()}
            target = one.pop("labels").to(model.backbone.device)
            logits = anchored(model.answer(one, told).logits.float(), model.anchor)
            said = torch.log_softmax(logits, dim=1)
            column = model.head.columns(target)[0]
            if labels == "model":
                shares = said.detach().exp()[0, : len(model.classes)].cpu()  # the anchor is none
                column = torch.multinomial(shares, 1)[0].to(said.device)
            slopes = torch.autograd.grad(said[0, column], list(weights.values()), allow_unused=True)
            for total, slope in zip(sums.values(), slopes, strict=True):
                if slope is not None:
                    total.add_(slope.square())
    number = sum(len(rows) for rows in chosen)
    return {name: total / number for name, total in sums.items()}


def _chosen(sizes: Sequence[int], samples: int | None) -> list[list[int]]:
    """Return which rows of each batch are used."""
    drawn = torch.randperm(sum(sizes))[:samples].sort().values.tolist()
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        [row - start for row in drawn if start <= row < start + size]
        for start, size in zip(starts, sizes, strict=True)
    ]
