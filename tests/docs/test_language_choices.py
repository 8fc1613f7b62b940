"""What is said of two studies is what their points say."""

from typing import Any

import pytest

from benchmarks.language_choices import (
    label_scores,
    prompt_length,
    prompt_steps,
    taught_prompt,
)


def study(x: str, rows: dict[tuple[str, str, Any], list[float]]) -> dict[str, Any]:
    return {
        "x": x,
        "y": ["average_accuracy"],
        "question": "Which is better?",
        "points": [
            {"panel": panel, "series": series, "x": at, "seed": seed, "average_accuracy": value}
            for (panel, series, at), values in rows.items()
            for seed, value in enumerate(values)
        ],
    }


@pytest.mark.parametrize("swap", [False, True])
def test_the_score_that_is_ahead_is_named(swap) -> None:
    first, second = ("mean", "sum") if swap else ("sum", "mean")
    made = label_scores(
        study(
            "score",
            {
                ("A", "zero_shot", first): [0.5, 0.7],
                ("A", "zero_shot", second): [0.4, 0.5],
                ("A", "prompt", first): [0.80, 0.80],
                ("A", "prompt", second): [0.81, 0.81],
            },
        )
    )
    sign = "−" if swap else "+"
    assert f"ahead in 1 of 2 rows, by {sign}7.0 points on average" in made[0]
    assert ("do not speak" in made[0]) is swap
    cells = [cell.strip() for cell in next(line for line in made if "zero_shot" in line).split("|")]
    assert cells[-2] == f"{sign}15.0 ± 7.1"
    assert {cells[2], cells[3]} == {"60.0 ± 14.1", "45.0 ± 7.1"}


def test_the_best_prompt_of_each_number_of_steps_is_compared_with_lora_seed_by_seed() -> None:
    made = prompt_steps(
        study(
            "steps",
            {
                ("P", "prompt 0.01", 10): [0.5, 0.6],
                ("P", "prompt 0.03", 10): [0.4, 0.4],
                ("P", "lora", 10): [0.7, 0.7],
                ("P", "prompt 0.01", 40): [0.6, 0.6],
                ("P", "prompt 0.03", 40): [0.72, 0.70],
                ("P", "lora", 40): [0.72, 0.72],
            },
        )
    )
    assert made[-1].split("|")[2].strip() == "−15.0 ± 7.1 (`prompt 0.01`)"
    assert made[-1].split("|")[3].strip() == "−1.0 ± 1.4 (`prompt 0.03`)"
    assert "| `lora` | 70.0 ± 0.0 | 72.0 ± 0.0 | +2.0 ± 0.0 |" in made
    assert "| `prompt 0.01` | 55.0 ± 7.1 | 60.0 ± 0.0 | +5.0 ± 7.1 |" in made


def test_what_a_longer_prompt_gains() -> None:
    made = prompt_length(
        study("tokens", {("P", "soft", 20): [0.5, 0.6], ("P", "soft", 80): [0.4, 0.4]})
    )
    assert made[2:] == [
        "| tokens | 20 | 80 | gained |",
        "| --- | ---: | ---: | ---: |",
        "| `soft` | 55.0 ± 7.1 | 40.0 ± 0.0 | −15.0 ± 7.1 |",
    ]


def test_a_taught_prompt_is_compared_with_labels_and_with_its_teacher_seed_by_seed() -> None:
    ways = {"lora": [0.7, 0.6], "labels": [0.5, 0.5], "teacher": [0.6, 0.6], "other": [0.4, 0.6]}
    made = taught_prompt(
        {
            "settings": {"labelled": 16, "unlabelled": 64, "steps": 160},
            "rows": [
                {"way": way, "seed": seed, "accuracy": value}
                for way, values in ways.items()
                for seed, value in enumerate(values)
            ],
        }
    )
    assert made[-1] == "Clearly apart from labels: teacher."
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made[4:-2]]
    assert cells == [
        ["`lora`, labels", "65.0 ± 7.1", "", ""],
        ["prompt, labels", "50.0 ± 0.0", "", "−15.0 ± 7.1"],
        ["prompt, teacher", "60.0 ± 0.0", "+10.0 ± 0.0", "−5.0 ± 7.1"],
        ["prompt, other", "50.0 ± 14.1", "+0.0 ± 14.1", "−15.0 ± 21.2"],
    ]
