"""The matrix of the reference numbers: definitions part on it (tests/golden, section Metrics)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "metrics.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.fixture
def golden_matrix(reference: dict[str, Any]) -> np.ndarray:
    return np.array(reference["matrix_rows_after_training_task_i_columns_test_task_j"])


@pytest.fixture
def golden_sizes(reference: dict[str, Any]) -> np.ndarray:
    return np.array(reference["test_samples_per_task"])


@pytest.fixture
def golden_baseline(reference: dict[str, Any]) -> np.ndarray:
    return np.array(reference["accuracy_before_any_training"])
