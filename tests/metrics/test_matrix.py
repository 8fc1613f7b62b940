"""AccuracyMatrix: filling, refusing, files, text and figure."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpool import metrics
from cpool.errors import CheckpointError, DataError, MetricError
from cpool.metrics import METRICS, AccuracyMatrix, functional


def filled() -> AccuracyMatrix:
    matrix = AccuracyMatrix(tasks=2)
    matrix.update(0, 0, 0.75, n=10)
    matrix.update(1, 0, 0.5, n=10)
    matrix.update(1, 1, 1.0, n=30)
    return matrix


def test_summary_gives_what_can_be_computed_and_none_for_the_rest() -> None:
    summary = filled().summary()
    # last row .5, 1.0; weighted (5 + 30)/40; incremental (.75 + .75)/2; diagonal (.75 + 1)/2
    assert summary == {
        "average_accuracy": 0.75,
        "average_accuracy_weighted": 0.875,
        "average_incremental_accuracy": 0.75,
        "forgetting": 0.25,
        "backward_transfer": -0.25,
        "forward_transfer": None,
        "learning_accuracy": 0.875,
        "intransigence": None,
    }
    assert filled().summary(joint=1.0)["intransigence"] == 0.125
    assert filled().summary(baseline=0.1)["forward_transfer"] is None  # R[0, 1] is missing
    assert set(AccuracyMatrix().summary().values()) == {None}


def test_a_joint_upper_bound_fills_the_last_row_only() -> None:
    joint = AccuracyMatrix(tasks=3)
    for task in range(3):
        joint.update(2, task, 0.9, n=5)
    summary = joint.summary()
    assert summary["average_accuracy"] == pytest.approx(0.9)
    assert summary["average_accuracy_weighted"] == pytest.approx(0.9)
    rest = {k: v for k, v in summary.items() if not k.startswith("average_accuracy")}
    assert set(rest.values()) == {None}


def test_one_task_has_no_forgetting() -> None:
    matrix = AccuracyMatrix(1)
    matrix.update(0, 0, 0.0, n=3)
    assert matrix.summary()["average_accuracy"] == 0.0
    assert matrix.summary()["forgetting"] is None


def test_summary_refuses_a_wrong_baseline_instead_of_hiding_it() -> None:
    with pytest.raises(MetricError, match="baseline: 2 accuracies"):
        filled().summary(baseline=[0.1, 0.1, 0.1])
    with pytest.raises(MetricError, match="joint accuracy"):
        filled().summary(joint=90)


def test_it_grows_when_the_length_is_not_given() -> None:
    matrix = AccuracyMatrix()
    matrix.update(0, 0, 0.75, n=10)
    assert matrix.tasks == 1
    matrix.update(1, 0, 0.5, n=10)
    matrix.update(1, 1, 1.0, n=30)
    assert matrix == filled()
    assert np.isnan(matrix.values[0, 1])
    assert matrix.sizes.tolist() == [10, 30]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ((2, 0, 0.5, 10), "`trained` to be a task from 0 to 1; got 2"),
        ((0, -1, 0.5, 10), "`evaluated`"),
        ((0, 1, 50.0, 30), "Divide percentages"),
        ((0, 1, float("nan"), 30), r"fraction in \[0, 1\]; got nan"),
        ((0, 1, 0.5, 0), "at least 1 test sample"),
        ((0, 1, 0.5, 29), "30 test samples for task 1, as before; got n = 29"),
        ((1, 0, 0.6, 10), r"R\[1, 0\] to be written once; got 0.6 over 0.5"),
    ],
)
def test_update_refuses(cell: tuple[int, int, float, int], message: str) -> None:
    matrix = filled()
    with pytest.raises(MetricError, match=message):
        matrix.update(*cell)
    assert matrix == filled()


def test_a_refused_update_does_not_grow_the_matrix() -> None:
    matrix = AccuracyMatrix()
    matrix.update(0, 0, 0.75, n=10)
    with pytest.raises(MetricError, match="10 test samples"):
        matrix.update(1, 0, 0.5, n=9)
    assert matrix.tasks == 1


def test_writing_the_same_value_again_is_no_error() -> None:
    matrix = filled()
    matrix.update(1, 0, 0.5, n=10)
    assert matrix == filled()


@pytest.mark.parametrize("tasks", [0, -1, True])
def test_the_number_of_tasks_is_checked(tasks: int) -> None:
    with pytest.raises(MetricError, match="number of tasks"):
        AccuracyMatrix(tasks)


def test_values_and_sizes_are_copies() -> None:
    matrix = filled()
    matrix.values[0, 0] = 0
    matrix.sizes[0] = 99
    assert matrix == filled()


def test_equality() -> None:
    other = AccuracyMatrix(tasks=2)
    assert filled() != other
    assert filled() != "matrix"
    with pytest.raises(TypeError, match="unhashable"):
        hash(filled())


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "matrix.json"
    filled().save(path)
    assert AccuracyMatrix.load(path) == filled()
    assert json.loads(path.read_text())["accuracy_matrix"] == [[0.75, None], [0.5, 1.0]]
    assert [p.name for p in path.parent.iterdir()] == ["matrix.json"]
    AccuracyMatrix().save(path)
    assert AccuracyMatrix.load(path) == AccuracyMatrix()


def test_a_run_of_results_json_is_a_matrix_too() -> None:
    run: dict[str, Any] = {"method": "l2p", "accuracy_matrix": [[None, None], [0.5, 0.75]]}
    assert AccuracyMatrix.from_json(run).summary()["average_accuracy"] == 0.625
    assert AccuracyMatrix.from_json(run).sizes.tolist() == [0, 0]


def test_load_refuses_what_is_no_matrix(tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    with pytest.raises(CheckpointError, match="readable JSON"):
        AccuracyMatrix.load(path)
    for text, message in (
        ("{", "readable JSON"),
        ("[1]", "got .1.. Give"),
        ('{"rows": 1}', "keys"),
        ('{"schema": 9, "accuracy_matrix": []}', "schema 9"),
        ('{"accuracy_matrix": [[0.5, 0.5]]}', "shape"),
        ('{"accuracy_matrix": [[7]]}', "R.0, 0. = 7"),
        ('{"accuracy_matrix": [[0.5]], "test_sizes": [1, 2]}', "shape"),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            AccuracyMatrix.load(path)
    with pytest.raises(DataError, match="JSON object"):
        AccuracyMatrix.from_json({})


def test_an_altered_file_cannot_be_half_read_by_a_loaded_matrix(tmp_path: Path) -> None:
    filled().save(tmp_path / "matrix.json")
    matrix = AccuracyMatrix.load(tmp_path / "matrix.json")
    with pytest.raises(MetricError, match="from 0 to 1"):
        matrix.update(2, 2, 0.5, n=1)


def test_repr_is_a_table() -> None:
    lines = repr(filled()).splitlines()
    assert lines[0].startswith("AccuracyMatrix, 2 tasks")
    assert lines[2].split() == ["after", "0", "0.750", "—"]
    assert lines[4].split() == ["n", "10", "30"]
    assert repr(AccuracyMatrix()) == "AccuracyMatrix, empty"
    long = repr(AccuracyMatrix(50))
    assert "41 of them not shown" in long
    assert max(map(len, long.splitlines())) <= 100


def test_plot_is_a_heatmap_in_percent() -> None:
    figure = filled().plot(title="Ours")
    (trace,) = figure.data
    assert trace.type == "heatmap"
    assert list(map(list, trace.z)) == [[75.0, None], [50.0, 100.0]]
    assert figure.layout.title.text == "Ours"


def test_the_registry_lists_every_metric_in_one_line() -> None:
    assert METRICS["forgetting"].startswith("Mean forgetting at the end")
    assert {*functional.__all__, *metrics.variants.__all__} == set(METRICS)
    assert all(line.endswith(".") and "\n" not in line for line in METRICS.values())


def test_exports_are_sorted_and_exist() -> None:
    for module in (metrics, functional, metrics.variants):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_importing_the_metrics_does_not_import_plotting() -> None:
    code = "import cpool.metrics, sys; print([m for m in sys.modules if 'plotly' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
