"""The page as text: complete, self-contained, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpool.errors import CheckpointError, DataError
from cpool.report import write_report
from cpool.report.heat import span_of, usage_summary
from cpool.report.plots import accuracy_curves, forgetting_against_cost
from cpool.report.results import rows_of
from cpool.report.sentences import cost_summary, curves_summary, headline


class Outline(HTMLParser):
    """Headings, ids, links to other places, and figures of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if values.get("role") == "img":
            self.images.append(values.get("aria-label", ""))
        self.outside += [v for k, v in values.items() if k in ("src", "srcset", "action")]
        if tag == "link" and not values["href"].startswith("data:"):
            self.outside.append(values["href"])


def page_of(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def outline_of(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    return outline


def without_scripts(page: str) -> str:
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_one_file_of_less_than_six_megabytes(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    assert path.stat().st_size < 6_000_000
    assert path.read_text(encoding="utf-8").count("plotly.js v") == 1


def test_out_names_another_file(run_dir: Path, tmp_path: Path) -> None:
    path = write_report(run_dir, tmp_path / "new" / "page.html")
    assert path.is_file()
    assert not (run_dir / "report.html").exists()


def test_the_same_run_gives_the_same_page(run_dir: Path) -> None:
    assert page_of(run_dir) == page_of(run_dir)


def test_structure(run_dir: Path) -> None:
    outline = outline_of(page_of(run_dir))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert outline.outside == []


def test_every_picture_has_a_text(run_dir: Path) -> None:
    outline = outline_of(page_of(run_dir))
    assert len(outline.images) == 5  # curves, cost, keys of three methods
    assert all(len(label) > 40 for label in outline.images)


def test_the_headline_says_who_wins_and_what_it_costs(results: dict[str, Any]) -> None:
    lines = headline(rows_of(results))
    assert lines[0] == "RanPAC is best: 92.30 ± 0.13 % average accuracy over 3 seeds."
    assert lines[1].startswith("It is a baseline without prompts")
    assert lines[2] == "It is 0.58 points ahead of PromptRidge."
    assert lines[3] == "That is 4.66 points below Joint, which sees all tasks at once."
    assert lines[4].startswith("RanPAC forgets 2.42 points, stores 320 kB a task, trains in 3.16 s")


def test_a_narrow_lead_is_no_clear_winner() -> None:
    runs = [
        {"method": m, "seed": s, "average_accuracy": v + 0.02 * s}
        for m, v in (("l2p", 0.80), ("coda", 0.79))
        for s in range(2)
    ]
    assert "no clear winner" in " ".join(headline(rows_of({"runs": runs})))
    assert "No method" in headline(rows_of({"runs": [{"method": "l2p"}]}))[0]


def test_a_run_without_diagnostics_says_so(bare_run_dir: Path) -> None:
    text = without_scripts(page_of(bare_run_dir))
    assert "This run has no diagnostics of slots" in text
    assert "This run has no keys to show" in text


def test_a_run_of_results_alone_is_enough(bare_run_dir: Path) -> None:
    (bare_run_dir / "config.toml").unlink()
    (bare_run_dir / "environment.json").unlink()
    assert "Machine and versions" not in without_scripts(page_of(bare_run_dir))


def test_the_least_that_a_run_can_be(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"runs": [{"method": "l2p"}]}')
    text = without_scripts(page_of(tmp_path))
    for sentence in (
        "No method of this run has an average accuracy yet.",
        "No row of this run was evaluated after each task.",
        "This run has no accuracy matrices.",
        "No row has both forgetting and bytes a task.",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("L2P-seed0.json", "{", "L2P-seed0.json could not be read"),
        ("L2P-seed0.json", '{"branches": [{"name": "a"}]}', "could not be read: KeyError"),
        (
            "L2P-seed0.json",
            '{"branches": [{"name": "a", "slots": [{}], "usage": [[1, 2]]}]}',
            "usage of shape (1, 2) for 1 slots",
        ),
        ("notes.json", "{}", "notes.json was left out"),
    ],
)
def test_broken_diagnostics_are_named_and_the_rest_is_shown(
    run_dir: Path, name: str, content: str, problem: str
) -> None:
    (run_dir / "diagnostics" / name).write_text(content)
    text = without_scripts(page_of(run_dir))
    assert problem in text
    assert "DualPrompt, embedding, seed 0" in text


def test_a_broken_environment_is_named(run_dir: Path) -> None:
    (run_dir / "environment.json").write_text("{")
    assert "environment.json could not be read" in without_scripts(page_of(run_dir))


def test_a_branch_that_nothing_chose_is_left_out(run_dir: Path) -> None:
    content = '{"branches": [{"name": "a", "site": "", "slots": [{}], "usage": [], "keys": null}]}'
    for path in (run_dir / "diagnostics").iterdir():
        path.write_text(content)
    assert "This run has no diagnostics of slots" in without_scripts(page_of(run_dir))


def test_a_collapsed_pool_is_told(run_dir: Path) -> None:
    path = run_dir / "diagnostics" / "L2P-seed0.json"
    content = json.loads(path.read_text())
    content["branches"][0]["usage"] = [[40] + [0] * 9] * 5
    path.write_text(json.dumps(content))
    text = without_scripts(page_of(run_dir))
    assert "All tasks choose slot 0 most (100 %): the pool may have collapsed." in text
    assert "9 of 10 slots are never chosen" in text


def test_sharing_on_purpose_is_no_collapse() -> None:
    assert usage_summary(np.full((3, 4), 0.25), list("abcd")) == "Every task takes all slots alike."
    assert "one slot" in usage_summary(np.ones((3, 1)), ["a"])
    # Two tasks of their own, and a slot that nobody chooses.
    text = usage_summary(np.array([[0.75, 0.25, 0], [0.25, 0.75, 0]]), list("abc"))
    assert text == (
        "The slot each task chooses most: task 0: a (75 %); task 1: b (75 %). "
        "1 of 3 slots are never chosen."
    )


def test_matrices_share_one_scale_of_colours() -> None:
    assert span_of([np.array([[0.62]]), np.array([[0.93]])]) == (0.6, 1.0)
    assert span_of([np.array([[1.0]])]) == (0.9, 1.0)
    assert span_of([np.array([[0.0]])]) == (0.0, 0.1)
    assert span_of([np.array([[np.nan]])]) == span_of([]) == (0.0, 1.0)


def test_nothing_in_a_run_becomes_markup(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    evil = "</script><script>alert(1)</script><b>"
    results["name"] = evil
    for run in results["runs"][:3]:
        run["label"] = evil
    (run_dir / "results.json").write_text(json.dumps(results))
    assert "<script>alert(1)" not in page_of(run_dir)


def test_missing_and_broken_results(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match="run the experiment again"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_figures_hold_the_numbers_and_texts_tell_them(results: dict[str, Any]) -> None:
    rows = rows_of(results)
    curves = accuracy_curves(rows)
    assert [trace.name for trace in curves.data][-1] == "Joint (upper bound)"
    assert len(curves.data[0].error_y.array) == 5
    cost = forgetting_against_cost(rows)
    assert len(cost.data) == 7
    assert "Not drawn, for want of one of the two numbers: Joint." in cost_summary(rows)
    assert "Joint, the upper bound, is at 97.0" in curves_summary(rows)
