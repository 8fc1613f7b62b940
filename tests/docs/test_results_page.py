"""The page of results says what the committed results say."""

import json
from pathlib import Path

import pytest

from cpool.report import results_markdown
from cpool.report.results import rows_of
from cpool.report.text import with_deviation

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pages" / "results.md").read_text(encoding="utf-8")
# The page of benchmarks has the others (tests/report/test_benchmark_page.py).
RESULTS = [ROOT / "benchmarks" / "results" / n / "results.json" for n in ("clinc150", "quickstart")]
REQUIRED = {"linear_head", "fine_tune", "ncm", "ranpac", "joint"}


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_table_on_the_page_is_made_from_the_results(path):
    table = [line.strip() for line in results_markdown(read(path)).splitlines() if line.strip()]
    page = [line.strip() for line in PAGE.splitlines()]
    for line in table:
        assert line in page, line


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_table_has_the_honest_rows_and_three_seeds(path):
    runs = read(path)["runs"]
    assert {run["method"] for run in runs} >= REQUIRED
    for method in {run["method"] for run in runs}:
        assert len({run["seed"] for run in runs if run["method"] == method}) >= 3
    assert (path.parent / "environment.json").is_file()


def test_both_experiments_are_there():
    assert {path.parent.name for path in RESULTS} >= {"quickstart", "clinc150"}


def test_what_is_said_of_the_digits_is_in_the_table():
    rows = {row.label: row for row in rows_of(read(RESULTS[1]))}
    found = {label: row.stat("average_accuracy") for label, row in rows.items()}
    said = " ".join(PAGE.split())
    linear, l2p, dual = (found[label] for label in ("linear_head", "l2p", "dualprompt"))
    both = " and ".join(with_deviation(stat) for stat in (l2p, linear))
    assert f"L2P is level with the linear head without a prompt ({both})" in said
    assert abs(l2p.mean - linear.mean) < min(l2p.deviation, linear.deviation)
    assert dual.mean < linear.mean - 0.01  # "DualPrompt is behind it"
    assert min(found["ranpac"].mean, found["ncm"].mean) > max(l2p.mean, linear.mean) + 0.1
    assert found["ranpac"].mean > found["joint"].mean
    assert rows["joint"].runs[0]["train"]["epochs"] == 5
    assert "Joint fine-tuning, five epochs on all digits at once, is behind RanPAC" in said


def test_joint_fine_tuning_of_clinc_is_ahead_by_what_the_page_says():
    rows = {row.label: row for row in rows_of(read(RESULTS[0]))}
    joint, ranpac = (rows[label].stat("average_accuracy").mean for label in ("joint", "ranpac"))
    assert 0 < joint - ranpac < 0.005
    assert rows["joint"].runs[0]["train"]["epochs"] == 2


def test_the_speed_on_the_page_is_what_was_measured():
    speed = read(ROOT / "benchmarks" / "results" / "speed-step.json")
    for name, ratio in speed["ratios"].items():
        assert f"| {name} | {ratio:.2f} × |" in PAGE
