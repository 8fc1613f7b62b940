"""The page of language models gives the times that were measured."""

import json
from pathlib import Path

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
