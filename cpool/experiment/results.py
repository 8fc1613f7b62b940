"""results.json: what was measured, in the order in which it was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cpool._version import __version__
from cpool.backbones import Backbone
from cpool.experiment.config import Experiment, MethodEntry
from cpool.experiment.features import sample_batch
from cpool.learner import Learner
from cpool.meter import COSTS, flops_per_sample, stored_bytes, trained_parameters
from cpool.streams import Stream

__all__ = ["SCHEMA", "results_document", "run_record"]

SCHEMA = 1
_METRICS = (
    "average_accuracy",
    "average_accuracy_weighted",
    "average_incremental_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
    "learning_accuracy",
)


def run_record(
    learner: Learner,
    entry: MethodEntry,
    stream: Stream,
    *,
    peak_memory: int | None,
    untrained: Sequence[float] | None,
    frozen_seconds: float | None = None,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the entry of `runs` for a finished run.

    Args:
        learner: after its last task.
        entry: its row in the experiment.
        stream: what it learned.
        peak_memory: bytes.
        untrained: accuracies of an untrained model [tasks], for forward transfer; None where
            tasks are not tested before they are learned.
        frozen_seconds: of the frozen model for one sample, as measured in this process; what
            training and prediction are compared with.
        search: how its settings were chosen; None when they were given.
    """
    model, matrix = learner.model, learner.matrix
    assert matrix is not None
    measured = matrix.to_json()
    summary = matrix.summary(baseline=untrained)
    total = stored_bytes(model)
    branches = list(model.prompter or ())
    return {
        "label": entry.label,
        "method": entry.method.name,
        "prompts": entry.method.prompts or bool(branches),
        "joint": entry.method.joint,
        "seed": learner.seed,
        "hyper_parameters": _plain(entry.method.hyper_parameters()),
        "train": dict(entry.train.__dict__),
        "class_order": list(stream.class_order),
        "accuracy_matrix": measured["accuracy_matrix"],
        "test_sizes": measured["test_sizes"],
        **{name: summary[name] for name in _METRICS},
        "trainable_parameters": trained_parameters(model, learner.trained),
        "slots": sum(len(branch.pool) for branch in branches) if branches else None,
        "evictions": {b.name: b.evictions for b in branches if b.capacity is not None} or None,
        "bytes_per_task": round(total / len(stream)),
        "total_bytes": total,
        "costs": COSTS,
        "train_seconds": learner.train_seconds,
        "predict_seconds": learner.predict_seconds,
        "peak_memory_bytes": peak_memory,
        "flops_per_sample": flops_per_sample(model, sample_batch(model.backbone, stream[0].test)),
        "threads": torch.get_num_threads(),
        "frozen_seconds_per_sample": frozen_seconds,
        "search": None if search is None else dict(search),
    }


def results_document(
    experiment: Experiment,
    backbone: Backbone,
    stream: Stream,
    runs: Sequence[Mapping[str, Any]],
    *,
    planned: int,
    features_seconds: float,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of results.json.

    Args:
        experiment: what was asked for.
        backbone: the frozen model.
        stream: that of the first seed; each run records its own class order.
        runs: entries of finished runs.
        planned: how many there will be.
        features_seconds: time for the query features that all runs share.
        search: the plan and the cost of the search; None without one.
    """
    described = {k: v for k, v in stream.describe().items() if k != "class_order"}
    return {
        "schema": SCHEMA,
        "name": experiment.name,
        "description": experiment.description,
        "version": __version__,
        "scenario": stream.scenario,
        "evaluated_on": experiment.evaluate,
        **({"dry_run": True} if experiment.dry_run else {}),
        "complete": len(runs) == planned,
        "features_seconds": features_seconds,
        "backbone": backbone.spec(),
        # Without a seed of its own, the stream's order of classes is that of each run.
        "stream": {
            **described,
            "seed": experiment.stream.get("seed"),
            "options": _options(experiment),
        },
        "train": dict(experiment.train),
        "search": None if search is None else dict(search),
        "not_run": dict(experiment.not_run),
        "runs": list(runs),
    }


def _options(experiment: Experiment) -> dict[str, Any]:
    """Return the options of the stream that are set; `seed` and names stand beside them."""
    given = {k: v for k, v in experiment.stream.items() if v is not None}
    options: dict[str, Any] = _plain({k: v for k, v in given.items() if k not in ("name", "seed")})
    return options


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
