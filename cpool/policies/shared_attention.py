"""SharedAttention: attention over all slots by a projected query, kept by replayed queries."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpool.blocks import Plan
from cpool.errors import ConfigError
from cpool.policies.base import Policy
from cpool.policies.keys import KeyBlocks
from cpool.selection import Selection

__all__ = ["SharedAttention"]


class SharedAttention(Policy):
    """Weight slots by `softmax_i(h(q)·k_i / √Q)`, `h = LayerNorm(SiLU(W₂ W₁ q))` shared by tasks.

    Zhao et al., *SAPT*, ACL 2024. In training the slots of the task and of all earlier tasks take
    part, as at test: learning and selection share one attention. Old keys are frozen, h is not;
    so that it keeps what it gave earlier tasks, `reflect · Σ_{j<t} KL(ā_j ‖ a(z))` enters the
    loss, ā_j the mean attention of task j when it ended, z replayed queries of task j. The paper
    generates pseudo-samples with a language model; here z is drawn from N(mean, diagonal
    variance) of the task's queries, since the attention reads nothing but the query.

    Args:
        query_size: Q.
        width: rows of W₁.
        reflect: weight of the reflection; 0 for none.
        replays: replayed queries an earlier task and step.
        low, high: keys start from U(low, high).
    """

    needs_end: ClassVar[bool] = True

    def __init__(
        self,
        query_size: int,
        *,
        width: int = 100,
        reflect: float = 0.1,
        replays: int = 16,
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        if min(width, replays) < 1 or reflect < 0:
            raise ConfigError(
                expected="width and replays of at least 1, reflect of at least 0",
                got=f"width={width}, replays={replays}, reflect={reflect}",
                remedy="Use reflect=0 for no reflection.",
            )
        self.query_size, self.reflect, self.replays = query_size, reflect, replays
        self.keys = KeyBlocks(query_size, low, high)
        down, up = (
            nn.Linear(query_size, width, bias=False),
            nn.Linear(width, query_size, bias=False),
        )
        self.project = nn.Sequential(down, up, nn.SiLU(), nn.LayerNorm(query_size))
        self.means: Float[Tensor, "t Q"]
        self.stds: Float[Tensor, "t Q"]
        self.recorded: Float[Tensor, "t M"]
        self.register_buffer("means", torch.zeros(0, query_size))
        self.register_buffer("stds", torch.zeros(0, query_size))
        self.register_buffer("recorded", torch.zeros(0, 0))

    def grow(self, n: int, task: int | None = None) -> None:
        """Add `n` keys, to which no earlier task attended."""
        super().grow(n, task)
        self.keys.grow(n, self.owner.device)
        self.recorded = F.pad(self.recorded, (0, n))

    def freeze_all(self) -> None:
        """Freeze the keys; the projection goes on learning."""
        for parameter in self.keys.parameters():
            parameter.requires_grad_(False).grad = None

    def forward(
        self,
        query: Float[Tensor, "B Q"] | None,
        task: int | None = None,
        available: Bool[Tensor, " M"] | None = None,
    ) -> Selection:
        """Weight the available slots for each sample; those of tasks up to `task` if it is told."""
        assert query is not None
        allowed = self.reached(available, task)
        slots = allowed.nonzero()[:, 0]
        score = self._scores(query)[:, slots]
        loss = score.new_zeros(())
        if self.reflect and self.training and task is not None and len(self.means):
            loss = self.reflect * self.reflection()
        index = slots.expand(len(query), -1)
        return Selection(index, score.softmax(dim=1), loss, score.detach())

    def reflection(self) -> Float[Tensor, ""]:
        """Return `Σ_j KL(ā_j ‖ a(z))`, the mean over replayed queries z of each task j."""
        t, m = self.recorded.shape
        noise = torch.randn(self.replays, t, self.query_size).to(self.means)
        drawn = (self.means + noise * self.stds).flatten(0, 1)
        attention = self._scores(drawn).log_softmax(dim=1)
        target = self.recorded.expand(self.replays, t, m).flatten(0, 1)
        # KL is 0 where the target is: log 0 never enters.
        return F.kl_div(attention, target, reduction="sum") / self.replays

    @torch.no_grad()
    def end_task(self, query: Float[Tensor, "n Q"], task: int) -> None:
        """Record the queries' mean and deviation, and the mean attention they got."""
        query = query.float()
        attention = self._scores(query).softmax(dim=1).mean(dim=0, keepdim=True)
        deviation = query.std(dim=0, correction=0, keepdim=True)
        self.means = torch.cat([self.means, query.mean(dim=0, keepdim=True)])
        self.stds = torch.cat([self.stds, deviation])
        self.recorded = torch.cat([self.recorded, attention])

    def _scores(self, query: Float[Tensor, "B Q"]) -> Float[Tensor, "B M"]:
        projected: Tensor = self.project(query.float())
        scores: Tensor = projected @ self.keys().float().T / self.query_size**0.5
        return scores

    def vectors(self) -> Float[Tensor, "M Q"]:
        """Return the keys, normalised."""
        return F.normalize(self.keys().detach().float(), dim=1)

    def recombine(self, plan: Plan) -> None:
        """Make the keys anew by a plan; a merged slot gets the attention of its parts."""
        rows = [list(parts) for block in plan for parts in block]
        self._check_union(rows)
        super().recombine(plan)
        self.keys.recombine(plan)
        kept = torch.stack([self.recorded[:, parts].sum(dim=1) for parts in rows], dim=1)
        self.recorded = kept / kept.sum(dim=1, keepdim=True).clamp_min(1e-12)

    def layout(self) -> dict[str, Any]:
        """Return the sizes of the key blocks and the number of recorded tasks."""
        blocks = {"blocks": self.keys.sizes(), "frozen": self.keys.frozen()}
        return {**super().layout(), **blocks, "recorded": len(self.means)}

    def restore(self, layout: Mapping[str, Any]) -> None:
        """Make key blocks and records of the sizes in `layout`."""
        super().restore(layout)
        self.keys.restore(layout["blocks"], layout["frozen"], self.owner.device)
        tasks = layout["recorded"]
        self.means = self.means.new_zeros(tasks, self.query_size)
        self.stds = self.stds.new_zeros(tasks, self.query_size)
        self.recorded = self.recorded.new_zeros(tasks, len(self))
