"""Reading results.json, and who is best."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpool.errors import CheckpointError, DataError
from cpool.methods import METHODS
from cpool.report import load_results
from cpool.report.loading import check_results
from cpool.report.ranking import best_row, caption, marks, ordered, setting_warning
from cpool.report.results import BASELINES, UPPER_BOUNDS, Row, Stat, rows_of


def run(label: str, values: list[float | None], method: str = "l2p", **more: Any) -> dict[str, Any]:
    return {"label": label, "method": method, "values": values, **more}


def document(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    runs = []
    for entry in entries:
        for seed, value in enumerate(entry["values"]):
            given = {k: v for k, v in entry.items() if k != "values"}
            runs.append({**given, "seed": seed, "average_accuracy": value})
    return {"schema": 1, "runs": runs, **more}


def by_label(rows: list[Row]) -> dict[str, Row]:
    return {row.label: row for row in rows}


def test_stat_is_mean_and_sample_deviation_of_what_was_measured() -> None:
    # mean 2, deviation √((1 + 0 + 1)/2) = 1
    assert Stat.of([1.0, 2.0, 3.0, None]) == Stat(2.0, 1.0, 3)
    assert Stat.of([0.5]) == Stat(0.5, None, 1)
    assert Stat.of([None]) is None


def test_rows_group_the_seeds_of_a_label(results: dict[str, Any]) -> None:
    rows = rows_of(results)
    assert [row.label for row in rows][:2] == ["L2P", "DualPrompt"]
    assert {len(row.runs) for row in rows} == {3}
    roles = {row.label: row.role for row in rows}
    assert roles["Joint"] == "upper bound"
    assert roles["RanPAC"] == roles["NCM"] == "baseline"
    assert roles["CODA-Prompt"] == "prompts"


def test_the_mean_matrix_keeps_the_gaps(results: dict[str, Any]) -> None:
    rows = by_label(rows_of(results))
    joint = rows["Joint"].mean_matrix()
    assert joint is not None
    assert np.isnan(joint[:-1]).all()
    assert not np.isnan(joint[-1]).any()


def test_milliseconds_a_sample() -> None:
    document_ = document(run("a", [0.5], predict_seconds=0.5, test_sizes=[100, 150]))
    (row,) = rows_of(document_)
    assert row.milliseconds() == Stat(2.0, None, 1)
    (row,) = rows_of(document(run("a", [0.5], predict_seconds=None, test_sizes=[100])))
    assert row.milliseconds() is None


def test_the_names_of_baselines_agree_with_the_methods() -> None:
    for name, method in METHODS.items():
        assert (name in UPPER_BOUNDS) == method.joint, name
        assert (name in BASELINES) == (not method.prompts and not method.joint), name


def test_a_run_says_itself_what_it_is() -> None:
    entries = [run("a", [0.5], prompts=False), run("b", [0.5], method="ncm", joint=True)]
    assert [row.role for row in rows_of(document(*entries))] == ["baseline", "upper bound"]


def test_the_best_is_no_upper_bound_and_close_ones_are_marked() -> None:
    rows = rows_of(
        document(
            run("joint", [0.99], method="joint"),
            run("far", [0.80, 0.81]),
            run("close", [0.895, 0.897]),  # 0.896: 0.004 below, within 0.0071
            run("best", [0.895, 0.905]),  # 0.9 ± 0.0071
            run("empty", [None, None]),
        )
    )
    assert [row.label for row in ordered(rows)] == ["best", "close", "far", "empty", "joint"]
    assert marks(rows) == {("run 1", "best"): "★", ("run 1", "close"): "≈"}
    assert caption(rows) == "Best: best. ≈ within one deviation of it."


def test_one_seed_has_no_deviation_so_only_ties_are_close() -> None:
    rows = rows_of(document(run("a", [0.9]), run("b", [0.9]), run("c", [0.899])))
    assert marks(rows) == {("run 1", "a"): "★", ("run 1", "b"): "≈"}


def test_a_winning_baseline_is_named_as_one() -> None:
    rows = rows_of(document(run("RanPAC", [0.9], method="ranpac"), run("L2P", [0.8])))
    assert caption(rows) == "Best: RanPAC, a baseline without prompts."


def test_without_a_measured_row_nothing_is_best() -> None:
    rows = rows_of(document(run("joint", [0.9], method="joint"), run("a", [None])))
    assert best_row(rows) is None
    assert marks(rows) == {}
    assert caption(rows) == "No row has an average accuracy yet."


def test_runs_of_other_settings_do_not_compare() -> None:
    one = document(run("a", [0.9]), name="x", backbone={"fingerprint": "1"})
    other = document(run("a", [0.8]), name="x", backbone={"fingerprint": "2"})
    rows = rows_of([one, other])
    assert marks(rows) == {("x", "a"): "★", ("x (2)", "a"): "★"}
    warning = setting_warning(rows)
    assert warning is not None
    assert warning.startswith("Warning: the backbone differs between the runs")
    assert setting_warning(rows_of([one, copy.deepcopy(one)])) is None


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [
        ("backbone", "pooling", "mean", "the query features differ"),
        ("backbone", "normalize", True, "the query features differ"),
        ("backbone", "layers", [-2], "the query features differ"),
        (
            "stream",
            "train_sizes",
            [260, 255, 250, 262, 1],
            "the number of training samples differs",
        ),
        ("stream", "train_sizes", [760, 525], "the number of tasks differs"),
        (
            "stream",
            "train_sizes",
            [760],
            "the number of training samples and the number of tasks differ",
        ),
        (None, "evaluated_on", "validation", "the evaluated split differs"),
    ],
)
def test_what_makes_another_setting(
    results: dict[str, Any], part: str | None, key: str, value: object, says: str
) -> None:
    other = copy.deepcopy(results)
    (other[part] if part else other)[key] = value
    rows = rows_of([results, other])
    assert f"Warning: {says} between the runs" in str(setting_warning(rows))
    assert list(marks(rows).values()).count("★") == 2


def test_another_order_of_classes_is_no_other_setting(results: dict[str, Any]) -> None:
    other = copy.deepcopy(results)
    other["stream"] |= {"seed": 1, "train_sizes": results["stream"]["train_sizes"][::-1]}
    assert setting_warning(rows_of([results, other])) is None


def test_load_takes_the_folder_or_the_file(run_dir: Path) -> None:
    assert load_results(run_dir) == load_results(run_dir / "results.json")


def test_load_refuses_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file\. .*cpool run"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": 1, "runs": [')
    with pytest.raises(CheckpointError, match="JSON"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], 'an object with a list "runs"'),
        ({"schema": 1}, "runs"),
        ({"runs": []}, "at least one run"),
        ({"schema": 2, "runs": [{}]}, "schema 2"),
        ({"runs": [{"seed": 0}]}, r"runs\[0\]"),
        ({"runs": [{"method": "l2p", "forgetting": "much"}]}, "'forgetting'.*much"),
        ({"runs": [{"method": "l2p", "accuracy_matrix": [[0.5, 0.5]]}]}, "shape"),
        ({"runs": [{"method": "l2p", "train_seconds": float("nan")}]}, "'train_seconds'.*nan"),
        ({"runs": [{"method": "l2p", "test_sizes": "many"}]}, "test_sizes"),
        ({"stream": "digits", "runs": [{"method": "l2p"}]}, "an object for 'stream'"),
        ({"runs": [{"method": "l2p", "accuracy_matrix": [[50]]}]}, r"R\[0, 0\] = 50"),
    ],
)
def test_load_refuses_what_is_no_result(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_results(tmp_path)


def test_null_is_a_value_like_any_other() -> None:
    keys = ("forgetting", "bytes_per_task", "accuracy_matrix", "test_sizes", "predict_seconds")
    check_results(document(run("a", [None], **dict.fromkeys(keys))))
