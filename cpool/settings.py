"""How a method is trained: plain settings, no logic."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from cpool.errors import ConfigError, nearest

__all__ = ["TrainSettings", "is_number", "is_whole"]


def is_whole(value: object) -> bool:
    """Tell whether `value` is a whole number; a truth value is none.

    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether `value` is a finite number.

    >>> is_number(3), is_number(0.5), is_number(float("nan")), is_number("0.5")
    (True, True, False, False)
    """
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


@dataclass(frozen=True)
class TrainSettings:
    """Optimisation of one task; every task starts with a new optimiser.

    Attributes:
        epochs: passes over the task's training data.
        batch_size: samples a step (and a step of prediction).
        lr: learning rate.
        optimizer: "adam", "adamw", "sgd" or "adafactor" (with `lr` as it is, neither scaled by the
            parameters nor falling by itself, as prompts are tuned in Lester et al. 2021).
        weight_decay: of the optimiser.
        momentum: of SGD.
        schedule: "constant" or "cosine" (to 0 over the task).
        clip_norm: largest norm of all gradients together; 0 does not clip.
        mask: which classes compete in training: "task" (those of the task) or "seen" (all).
        anchor: weight of a class without samples, whose logit is always 0, beside those that
            compete: `−log e^{z_y} / (anchor + Σ_c e^{z_c})`. Tasks that are trained apart then
            share a reference, and their logits compare at test; 0 leaves it out, as the papers do.

    >>> TrainSettings(epochs=5).but(lr=0.03).lr
    0.03
    """

    epochs: int = 5
    batch_size: int = 64
    lr: float = 0.001
    optimizer: Literal["adam", "adamw", "sgd", "adafactor"] = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float = 1.0
    mask: Literal["task", "seen"] = "task"
    anchor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for key in ("epochs", "batch_size"):
            self._need(is_whole(getattr(self, key)), key, "as a whole number")
        for key in ("lr", "weight_decay", "momentum", "clip_norm", "anchor"):
            self._need(is_number(getattr(self, key)), key, "as a finite number")
        self._need(self.epochs >= 1, "epochs", "at least 1")
        self._need(self.batch_size >= 1, "batch_size", "at least 1")
        self._need(self.lr > 0, "lr", "above 0")
        self._need(self.weight_decay >= 0, "weight_decay", "at least 0")
        self._need(0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        self._need(self.clip_norm >= 0, "clip_norm", "at least 0")
        self._need(self.anchor >= 0, "anchor", "at least 0")
        known = ("adam", "adamw", "sgd", "adafactor")
        self._need(self.optimizer in known, "optimizer", "adam, adamw, sgd or adafactor")
        self._need(self.schedule in ("constant", "cosine"), "schedule", "constant or cosine")
        self._need(self.mask in ("task", "seen"), "mask", "task or seen")

    def _need(self, right: bool, key: str, expected: str) -> None:
        if not right:
            raise ConfigError(
                expected=f"{key} {expected}",
                got=repr(getattr(self, key)),
                remedy=f"Change train.{key}.",
            )

    def but(self, **changes: Any) -> "TrainSettings":
        """Return a copy with some settings changed.

        Raises:
            ConfigError: a setting that does not exist; the nearest one is named.
        """
        known = [f.name for f in fields(self)]
        for key in changes:
            if key not in known:
                close = nearest(key, known)
                raise ConfigError(
                    expected=f"a training setting ({', '.join(known)})",
                    got=repr(key),
                    remedy=f"Did you mean {close!r}?" if close else "Remove it.",
                )
        return replace(self, **changes)
