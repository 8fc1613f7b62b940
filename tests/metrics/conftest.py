"""The matrix of the reference numbers: definitions part on it (see golden.json)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.fixture
def golden() -> dict[str, Any]:
    return GOLDEN


@pytest.fixture
def golden_matrix() -> np.ndarray:
    return np.array(GOLDEN["matrix_rows_after_training_task_i_columns_test_task_j"])


@pytest.fixture
def golden_sizes() -> np.ndarray:
    return np.array(GOLDEN["test_samples_per_task"])


@pytest.fixture
def golden_baseline() -> np.ndarray:
    return np.array(GOLDEN["accuracy_before_any_training"])
