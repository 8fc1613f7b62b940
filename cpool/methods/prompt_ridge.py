"""PromptRidge: a prefix trained once a domain, several layers, random features, additive ridge."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from cpool.backbones import Backbone
from cpool.heads import CosineHead, ExpertHead, Head, SessionHead
from cpool.methods._session import check_prefix, session_branch
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import DomainRouter, OwnSlot, Policy
from cpool.prompter import Prompter
from cpool.readout import last_layers, readout_size
from cpool.ridge import Kind, RidgeHead
from cpool.rules.domains import Domains
from cpool.settings import TrainSettings, is_number, is_whole

__all__ = ["PromptRidge"]


@dataclass(frozen=True)
class PromptRidge(Method):
    """A slot is a prefix on every layer, trained on the first task of a domain, then frozen.

    φ(x): the pooled states of the last layers of one prompted pass, each of norm 1. Random
    features `z = cos(φ W + b)`; `W* = (Σ_t G_t + λ·mean(diag G) I)⁻¹ Σ_t Q_t` with `G_t = ZᵀZ`,
    `Q_t = ZᵀY`: later tasks of a domain cost one pass and no training, and tasks add up exactly.
    The defaults were chosen on validation data (`benchmarks/prompt_ridge_search.py`, and for λ
    `benchmarks/prompt_ridge_penalties.py`).

    Attributes:
        prompt: "auto", trained and kept only where it pays on held-out training rows, "trained",
            "random" (never trained) or "none".
        length: P, prefix tokens a layer.
        layers: share of the layers that are read, from the last; 0 reads the final state alone,
            pooled as the query is.
        projection: M, random features.
        kind: "cosine", "orthogonal" or "relu".
        gamma: γ, the scale of W: the larger, the narrower the kernel.
        ridge: λ as a share of the mean of the diagonal of G; "left_out", the share with which most
            rows are right that were left out of the fit, asked anew with each task; or "auto", as
            RanPAC chooses.
        seed: of the random features; drawn with the run's seed when None.
        domains: "one" slot for all tasks, one a "task", or "auto", decided on training data
            (`cpool.rules.domains`); without a prompt there is one.
        forgettable: keep each task's share of the sums, so that it can be forgotten exactly.
    """

    name: ClassVar[str] = "prompt_ridge"
    summary: ClassVar[str] = "prefix trained once a domain, several layers, additive ridge (ours)"
    train: ClassVar[TrainSettings] = TrainSettings(lr=0.01, epochs=8, schedule="cosine")

    prompt: Literal["auto", "trained", "random", "none"] = "auto"
    length: int = 8
    layers: float = 1.0
    projection: int = 10_000
    kind: Kind = "cosine"
    gamma: float = 0.5
    ridge: float | Literal["auto", "left_out"] = "left_out"
    seed: int | None = None
    domains: Literal["one", "task", "auto"] = "auto"
    forgettable: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        check_prefix(self)
        choices = {
            "prompt": ("auto", "trained", "random", "none"),
            "kind": ("cosine", "orthogonal", "relu"),
            "domains": ("one", "task", "auto"),
        }
        for key, known in choices.items():
            self.need(getattr(self, key) in known, key, f"one of {', '.join(known)}")
        self.need(is_number(self.gamma) and self.gamma > 0, "gamma", "above 0 and finite")
        self.need(is_whole(self.projection) and self.projection >= 1, "projection", "at least 1")
        share = is_number(self.layers) and 0 <= self.layers <= 1
        self.need(share, "layers", "a share from 0 to 1")
        self.need_ridge()

    @property
    def trains(self) -> bool:
        """Whether the first task has steps of optimisation."""
        return self.prompt in ("auto", "trained")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A prefix with a router, a probe for the first session, and a ridge a domain."""
        readout = last_layers(backbone, self.layers)
        size = readout_size(readout, backbone)
        seed = int(torch.randint(2**31 - 1, ())) if self.seed is None else self.seed
        if self.prompt == "none":
            return PromptedModel(backbone, self._ridge(size, seed), readout=readout)
        # One slot that may stay bare needs a router that says so.
        one = self.domains == "one" and self.prompt != "auto"
        experts = ExpertHead(size, lambda: self._ridge(size, _seed_of(experts, seed)), fits=True)
        lasting: Head = self._ridge(size, seed) if one else experts
        sessions = (1 if one else None) if self.trains else 0
        head = SessionHead(lasting, lambda: CosineHead(size), sessions=sessions)
        policy = OwnSlot() if one else self._router(backbone)
        branch = session_branch(backbone, self.length, policy, sessions=1 if one else None)
        rule = Domains(self.domains, trained=self.trains, must_pay=self.prompt == "auto")
        return PromptedModel(
            backbone,
            head,
            Prompter([branch]),
            readout=readout,
            rules=[rule],
            rates={"head": 0.1},
        )

    def _router(self, backbone: Backbone) -> Policy:
        return DomainRouter(backbone.query_size, forgettable=self.forgettable)

    def _ridge(self, size: int, seed: int) -> RidgeHead:
        return RidgeHead(
            size,
            projection=self.projection,
            ridge=self.ridge,
            seed=seed,
            kind=self.kind,
            gamma=self.gamma,
            relative=True,
            forgettable=self.forgettable,
        )


def _seed_of(experts: ExpertHead, seed: int) -> int:
    """Return the seed of the heads that exist: after loading it is theirs, not a new one."""
    if not len(experts.experts):
        return seed
    first = experts.expert(0)
    assert isinstance(first, RidgeHead)
    return int(first.expand.get_buffer("seed"))
