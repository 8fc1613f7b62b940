"""Resuming: whether a checkpoint fits the settings of now, and which method made it."""

from typing import Any

from cpool.checkpoint import describe_method
from cpool.errors import CheckpointError, ConfigError
from cpool.methods import METHODS, Method, method_from
from cpool.settings import TrainSettings

__all__ = ["check_settings", "method_of"]


def check_settings(
    manifest: dict[str, Any], method: Method | None, train: TrainSettings, seed: int
) -> None:
    """Refuse to go on from a checkpoint with another method, training or seed.

    Args:
        manifest: of the checkpoint.
        method: of the model that shall go on.
        train: how it shall be trained.
        seed: of everything random.

    Raises:
        CheckpointError: what differs, then and now.
    """
    settings = {**TrainSettings().__dict__, **manifest["train"]}  # with those that came later
    then = {**settings, "seed": manifest["learner"]["seed"], "method": _method(manifest)}
    now = {**train.__dict__, "seed": seed, "method": method and describe_method(method)}
    if then == now:
        return
    differ = sorted(key for key in now if then.get(key) != now[key])
    raise CheckpointError(
        expected="the settings of the checkpoint: "
        + ", ".join(f"{key}={then.get(key)}" for key in differ),
        got=", ".join(f"{key}={now[key]}" for key in differ),
        remedy="Resume with the same method, training settings and seed.",
    )


def method_of(manifest: dict[str, Any]) -> Method:
    """Return the method that made a checkpoint, if it is a registered one."""
    entry = manifest["method"]
    if entry is None or entry["name"] not in METHODS:
        raise CheckpointError(
            expected="a checkpoint of a registered method, or model=…",
            got=f"method {entry and entry['name']!r}",
            remedy="Build the model as before and pass it as model=.",
        )
    return method_from(entry["name"], entry["hyper_parameters"])


def _method(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Return the method of a checkpoint, with options that came later at their defaults."""
    entry: dict[str, Any] | None = manifest["method"]
    if entry is None or entry["name"] not in METHODS:
        return entry
    try:
        return describe_method(method_from(entry["name"], entry["hyper_parameters"]))
    except ConfigError:
        return entry  # what no longer exists differs
