"""What the page says of costs, and of tasks one after another, is what the files say."""

import json
from pathlib import Path
from typing import Any

from benchmarks import panel_costs
from benchmarks.language_streams import leaders, stream_section
from benchmarks.panel_cost_table import cost_pictures, cost_section, seconds_of
from benchmarks.study_file import read_study
from benchmarks.tables import RESULTS

METHODS = {
    "zero": "zero_shot",
    "ncm": "ncm",
    "soft": "prompt_tuning",
    "fine_tune_words": "fine_tune_words",
}
PLAIN = {"tokens_added": 4.0, "trainable_parameters": 0, "stored_bytes": 80}
ROWS = {
    "soft": {
        "tokens_added": 24.4,
        "trainable_parameters": 11_520,
        "stored_bytes": 2_700_000,
        "request_seconds": 0.1672,
        "steps": 160,
        "step_seconds": 0.5,
        "step_over_full": 0.4,
        "peak_bytes": 543_000_000,
    },
    "ncm": {**PLAIN, "request_seconds": 0.056, "train_seconds": 3.25},
    "zero": {**PLAIN, "request_seconds": 0.05, "train_seconds": 0.002},
}


def study() -> dict[str, Any]:
    points = [
        {"panel": "B, 2 labels", "series": series, "x": x, "seed": seed, "average_accuracy": value}
        for series, x, values in (("soft", 16, (0.8, 0.9)), ("soft", 4, (0.1, 0.1)))
        for seed, value in enumerate(values)
    ]
    points.append(
        {"panel": "B, 2 labels", "series": "ncm", "x": 16, "seed": 0, "average_accuracy": 0.5}
    )
    return {"x": "queries", "y": ["average_accuracy"], "points": points}


def committed(folder: Path) -> Path:
    found = {"study": "hard_vs_soft", "x": 16, "panels": {"B, 2 labels": {"rows": ROWS}}}
    (folder / panel_costs.COSTS.name).write_text(json.dumps(found))
    return folder


def test_a_row_of_costs(tmp_path: Path) -> None:
    lines = cost_section(committed(tmp_path), study(), METHODS)
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    # 160 steps of half a second are 80 s, at 10 W.
    soft = ["85.0 ± 7.1", "11.5k", "2.70 MB", "24", "167", "80", "800 J", "0.40 ×", "543 MB"]
    ncm = ["50.0", "0", "80 B", "4", "56", "3.2", "32 J", "–", "–"]
    zero = ["–", "0", "80 B", "4", "50", "< 0.1", "< 1 J", "–", "–"]
    assert table == [["`zero`", *zero], ["`soft`", *soft], ["`ncm`", *ncm]]
    assert "| *B, 2 labels* |" in "\n".join(lines)


def test_a_picture_for_each_panel(tmp_path: Path) -> None:
    pictures = cost_pictures(committed(tmp_path), study(), METHODS)
    assert list(pictures) == ["hard-and-soft-cost-b.svg"]
    assert pictures["hard-and-soft-cost-b.svg"].count('class="mark"') == 2
    lines = cost_section(tmp_path, study(), METHODS, pictures)
    assert f'--8<-- "{next(iter(pictures))}"' in lines


def test_no_costs_no_section(tmp_path: Path) -> None:
    assert cost_section(tmp_path, study(), METHODS) == []
    assert cost_pictures(tmp_path, study(), METHODS) == {}


def test_the_committed_costs_are_of_the_rows_of_the_study() -> None:
    found = json.loads(panel_costs.COSTS.read_text())
    plan = read_study(panel_costs.STUDY)
    rows = [row.get("label", row["name"]) for row in plan.base["method"]]
    assert list(found["panels"]) == [panel.x for panel in plan.panels[1:]]
    for measured in found["panels"].values():
        assert list(measured["rows"]) == rows
        seconds = {label: seconds_of(costs) for label, costs in measured["rows"].items()}
        assert max(seconds, key=lambda label: seconds[label]) == "fine_tune_words"
        assert measured["rows"]["fine_tune_words"]["step_over_full"] == 1.0


def test_streams_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    def write(name: str, description: str) -> None:
        run = {**real["runs"][0], "label": "a"}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(
            json.dumps({**real, "description": description, "runs": [run]})
        )

    real = json.loads((RESULTS / "language-stream" / "results.json").read_text())

    assert stream_section(tmp_path) == []
    write("language-stream", "Twelve intents.")
    write("language-stream-task", "Twelve intents, told.")
    write("language-stream-domains", "Ten domains")
    said = "\n".join(stream_section(tmp_path))
    assert "told" not in said and said.count("\n| `a` |") == 2
    assert "Ten domains. Three seeds" in said and "accuracy %, on CLINC150" in said
    assert "on SNIPS" not in said


def test_who_leads_a_stream_upper_bounds_left_out() -> None:
    def run(label: str, accuracy: float, **changes: bool) -> dict[str, Any]:
        found = {"label": label, "average_accuracy": accuracy, "prompts": False, "joint": False}
        return {**found, **changes}

    head = [run("head", 0.9), run("head", 0.7), run("bound", 0.95, prompts=True, joint=True)]
    soft = run("soft", 0.75, prompts=True)
    made = leaders({"task known": {"runs": [*head, soft]}, "on SNIPS": {"runs": [soft]}})
    assert made == [
        "With the task known, `head` leads with 80.0 ± 14.1 %, and the best prompt, `soft`, "
        "has 75.0 %.",
        "On SNIPS, `soft` leads with 75.0 %.",
    ]
