"""The page of language models gives the times that were measured."""

import json
from pathlib import Path

import numpy as np

from benchmarks.curve_tables import tables

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pages" / "language-models.md").read_text(encoding="utf-8")
SPEED = json.loads((ROOT / "benchmarks" / "results" / "speed-language.json").read_text("utf-8"))


def test_ratios_of_label_scores() -> None:
    assert len(SPEED["scoring_over_one_pass"]) == 4
    for name, ratio in SPEED["scoring_over_one_pass"].items():
        assert f"| {name} | {ratio:.2f} × |" in PAGE


def test_the_gain_of_a_mixed_batch() -> None:
    assert SPEED["generation"]["rows"] == 16
    assert f"are {SPEED['generation']['times_faster']:.1f} times as fast" in PAGE


def test_what_examples_cost_that_are_run_once() -> None:
    shared = SPEED["sharing_over_no_examples"]
    once, each = shared["examples run once"], shared["examples in each row"]
    assert f"{once:.1f} times as long as without them, in place of {each:.1f} times" in PAGE


def test_the_gain_of_a_prompt_that_is_run_once() -> None:
    assert len(SPEED["prompt_run_once"]) == 4
    for row in SPEED["prompt_run_once"]:
        assert f"| {row['rows']} | {row['tokens']} | {row['times_faster']:.2f} × |" in PAGE


def test_what_labels_of_other_tasks_would_cost() -> None:
    whole = SPEED["competing_labels"]["75 labels known"]
    assert f"of 15 labels would take {whole:.1f} times as long" in PAGE


def test_the_table_of_texts_in_a_slot() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "cartridge.json").read_text("utf-8"))
    assert found["settings"]["seeds"] == 3
    rows = found["rows"]
    base = np.mean([row["milliseconds"] for row in rows if row["way"] == "whole text"])
    for way in ("no text", "first words", "slot", "whole text"):
        mine = [row for row in rows if row["way"] == way]
        assert len(mine) == 3
        tokens = np.mean([row["tokens"] for row in mine])
        right = [100 * row["accuracy"] for row in mine]
        same = np.mean([100 * row["same_next_word"] for row in mine])
        time = np.mean([row["milliseconds"] for row in mine]) / base
        line = f"{np.mean(right):.0f} ± {np.std(right, ddof=1):.0f} % | {same:.0f} % | {time:.2f} ×"
        assert f"| {way} | {tokens:.0f} | {line} |" in PAGE


def test_the_table_of_compressed_prompts() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "compression.json").read_text("utf-8"))
    assert found["seeds"] == 3
    rows = found["rows"]
    base = np.mean([row["milliseconds"] for row in rows if row["way"] == "whole prompt"])
    ways = list(dict.fromkeys(row["way"] for row in rows))
    assert len(ways) == 8
    for way in ways:
        mine = [row for row in rows if row["way"] == way]
        assert [row["seed"] for row in mine] == [0, 1, 2]
        cells = [f"{np.mean([row['tokens'] for row in mine]):.0f}"]
        for key in ("same", "accuracy"):
            values = [100 * row[key] for row in mine]
            cells.append(f"{np.mean(values):.0f} ± {np.std(values, ddof=1):.0f} %")
        cells.append(f"{np.mean([row['milliseconds'] for row in mine]) / base:.2f} ×")
        assert f"| {way} | {' | '.join(cells)} |" in PAGE


def test_the_tables_of_accuracy_on_the_way() -> None:
    made = tables()
    assert made, "benchmarks.projection was measured"
    for table in made:
        assert "\n".join(table) in PAGE


def test_where_a_start_hurts_is_said() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "recycling.json").read_text("utf-8"))
    rows, text = found["rows"], " ".join(PAGE.split())
    drawn = {(r["seed"], r["target"]): r["accuracy"] for r in rows if r["kind"] == "scratch"}
    moved = [row for row in rows if row["kind"] == "transfer"]
    assert len(moved) == 36

    def gain(row, mark: str) -> float:
        return 100 * (row["accuracy"][mark] - drawn[row["seed"], row["target"]][mark])

    early, late = (sum(gain(row, mark) < 0 for row in moved) for mark in ("10", "60"))
    assert f"{early} are behind drawn words after ten steps, and {late} after sixty" in text
    worst = [
        -min(gain(row, "60") for row in moved if (row["source"], row["target"]) == pair)
        for pair in (("small_talk", "kitchen_and_dining"), ("small_talk", "credit_cards"))
    ]
    assert f"(−{worst[0]:.1f} and −{worst[1]:.1f})" in text


def test_what_is_said_of_prompts_in_another_model() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "projection.json").read_text("utf-8"))
    assert found["seeds"] == 3
    over = [row for row in found["rows"] if row["start"] != "own"]
    assert {row["shared"] for row in over} == {16965}
    explained = {row["target"]: f"{100 * row['explained']:.0f} %" for row in over}
    assert f"{explained['MiniLM']} of MiniLM's embedding" in PAGE
    assert f"and {explained['SmolLM2']} of SmolLM2's" in PAGE
    # Trained prompts of the other model: at chance in the beginning, no better in the end.
    for target in ("SmolLM2", "MiniLM"):
        rows = [row["accuracy"] for row in found["rows"] if row["target"] == target]
        moved = [
            row["accuracy"]
            for row in found["rows"]
            if (row["target"], row["start"]) == (target, "trained")
        ]
        assert max(row["0"] for row in rows) < 0.3
        ends = np.array([row["60"] for row in rows])
        assert abs(np.mean([row["60"] for row in moved]) - ends.mean()) < ends.std(ddof=1)
