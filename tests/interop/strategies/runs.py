"""What the tests of Avalanche share: models, strategies and benchmarks of the tiny stream."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("avalanche", reason="the extra avalanche is not installed")
    from avalanche.logging import TextLogger
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    from cpool.interop.avalanche import (
        AvalancheModel,
        MatrixMetrics,
        PromptPoolPlugin,
        as_benchmark,
    )
    from cpool.interop.avalanche.inputs import raw_inputs

from cpool.learner import Learner
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import ROWS
from tests.common.tasks import stream

__all__ = ["SGD", "AvalancheModel", "Naive", "answers", "benchmark", "naive", "own", "prompted"]
__all__ += ["raw_inputs", "strategy_of"]

SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}


def prompted(row: str, kind: str, seed: int = 0) -> Any:
    backbone = tiny.backbone(kind)
    with seeded(seed, "build"):
        return ROWS[row]().build(backbone)


def strategy_of(kind: Any, model: Any, *plugins: Any, **options: Any) -> Any:
    """Return a quiet strategy of a class of Avalanche, with batches of a whole tiny task."""
    settings: dict[str, Any] = {"train_mb_size": 64, "train_epochs": 2, "eval_mb_size": 64}
    settings["evaluator"] = EvaluationPlugin(MatrixMetrics(), loggers=TextLogger(io.StringIO()))
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), **SGD),
        criterion=torch.nn.CrossEntropyLoss(),
        plugins=[PromptPoolPlugin(seed=0), *plugins],
        **{**settings, **options},
    )


def naive(row: str, kind: str, **options: Any) -> Any:
    return strategy_of(Naive, AvalancheModel(prompted(row, kind)), **options)


def benchmark(kind: str) -> Any:
    return as_benchmark(stream(kind))


def own(row: str, kind: str, batch_size: int = 64) -> Learner:
    """Return a learner with the same settings, to be compared with."""
    return Learner(
        prompted(row, kind),
        seed=0,
        epochs=2,
        batch_size=batch_size,
        optimizer="sgd",
        schedule="constant",
        clip_norm=0.0,
        device="cpu",
        quiet=True,
        **SGD,
    )


def answers(strategy: Any, experience: Any) -> np.ndarray:
    """Return the logits of an experience's test data."""
    x = torch.stack([row[0] for row in experience.dataset.eval()])
    strategy.model.eval()
    with torch.no_grad():
        return strategy.model(x).numpy()
