"""Rows that are measured anew take the place of the old ones; whatever else differs is refused."""

import copy
from typing import Any

import pytest

from benchmarks.row_again import only, replaced, replaced_trials

from .conftest import make_results


def some_rows(results: dict[str, Any], label: str) -> dict[str, Any]:
    """Return results of one row, measured anew."""
    made = copy.deepcopy(results)
    made["runs"] = [run for run in made["runs"] if run["label"] == label]
    for run in made["runs"]:
        run["average_accuracy"] = 0.5
    return made


def test_new_runs_take_the_places_of_the_old_and_nothing_else_moves() -> None:
    old = make_results()
    found = replaced(old, some_rows(old, "L2P"))
    assert {k: v for k, v in found.items() if k != "runs"} == {
        k: v for k, v in old.items() if k != "runs"
    }
    assert [(r["label"], r["seed"]) for r in found["runs"]] == [
        (r["label"], r["seed"]) for r in old["runs"]
    ]
    for before, after in zip(old["runs"], found["runs"], strict=True):
        if before["label"] == "L2P":
            assert after["average_accuracy"] == 0.5 != before["average_accuracy"]
        else:
            assert after == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": "9"}, "version"),
        ({"stream": {}}, "stream"),
        ({"complete": False}, "not whole"),
    ],
)
def test_rows_of_another_experiment_are_refused(change: dict[str, Any], says: str) -> None:
    old = make_results()
    with pytest.raises(SystemExit, match=says):
        replaced(old, some_rows(old, "L2P") | change)


def test_a_seed_that_the_results_lack_is_refused() -> None:
    old = make_results()
    new = some_rows(old, "L2P")
    new["runs"][0]["seed"] = 99
    with pytest.raises(SystemExit, match=r"seeds .*99"):
        replaced(old, new)


def test_a_row_that_the_results_lack_comes_last() -> None:
    old = make_results()
    new = some_rows(old, "L2P")
    for run in new["runs"]:
        run["label"] = "L2P anchored"
    assert replaced(old, new)["runs"] == [*old["runs"], *new["runs"]]


def test_trials_of_the_rows_are_the_new_ones() -> None:
    old = {"code": "a", "trials": [{"label": "ncm", "n": 1}, {"label": "l2p", "n": 1}]}
    new = {"code": "b", "trials": [{"label": "l2p", "n": 2}, {"label": "l2p", "n": 3}]}
    found = replaced_trials(old, new, ["l2p"])
    assert found["trials"] == [old["trials"][0], *new["trials"]]
    assert replaced_trials(old, {"trials": []}, ["l2p"])["trials"] == [old["trials"][0]]


def test_a_row_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(SystemExit, match=r"no row l3p; there are l2p, ncm"):
        only({"method": [{"label": "l2p"}, {"label": "ncm"}]}, ["l3p"])
