"""Experiment: what a file asks for, checked and resolved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cpool.methods import Method
from cpool.settings import TrainSettings

__all__ = ["Experiment", "MethodEntry"]


@dataclass(frozen=True)
class MethodEntry:
    """One row of the experiment.

    Attributes:
        label: unique name of the row.
        method: with its hyper-parameters.
        train: the method's own settings, changed by `[train]`, changed by `[method.train]`.
    """

    label: str
    method: Method
    train: TrainSettings


@dataclass(frozen=True)
class Experiment:
    """What a file asks for, all of it resolved.

    Attributes:
        name, description: for people; the name is the default output folder.
        seeds: one run a method and seed.
        threads: of torch; None leaves them as they are.
        evaluate: the split that accuracies are measured on.
        backbone: arguments of `load_backbone`.
        stream: name and options; without "seed" each run's own seed orders the classes.
        train: `[train]` as given.
        methods: in the order of the file.
        source: the file.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    threads: int | None
    evaluate: str
    backbone: Mapping[str, Any]
    stream: Mapping[str, Any]
    train: Mapping[str, Any]
    methods: tuple[MethodEntry, ...]
    source: str = field(default="", compare=False)

    def resolved(self) -> dict[str, Any]:
        """Return the content of config.toml: all values, as a file that gives the same again."""
        methods = [
            {
                "name": entry.method.name,
                "label": entry.label,
                **entry.method.hyper_parameters(),
                "train": dict(entry.train.__dict__),
            }
            for entry in self.methods
        ]
        top = {
            "name": self.name,
            "description": self.description,
            "seeds": list(self.seeds),
            "threads": self.threads,
            "evaluate": self.evaluate,
            "backbone": dict(self.backbone),
            "stream": dict(self.stream),
            "train": dict(self.train),
            "method": methods,
        }
        cleaned: dict[str, Any] = _plain(top)
        return cleaned


def _plain(value: Any) -> Any:
    """Return `value` as TOML holds it: no None, lists instead of tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
