"""The page of PromptRidge says what the committed results say, and judges its targets rightly."""

import pytest

from benchmarks import prompt_ridge_page as page
from benchmarks.prompt_ridge_page import Experiment


def experiment(name: str, **rows: list[float]) -> Experiment:
    """Return an experiment of rows of accuracies in percent, a seed each; `__` is a space."""
    runs = [
        {
            "label": label.replace("__", " "),
            "method": "joint" if label.startswith("joint") else label.split("__")[0],
            "seed": seed,
            "average_accuracy": value / 100,
            "forgetting": 0.019,
        }
        for label, values in rows.items()
        for seed, value in enumerate(values)
    ]
    return Experiment(name, runs)


def cells(lines: list[str]) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in lines[2:]]


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.content(), (
        "out of date: python -m benchmarks.prompt_ridge_page"
    )


@pytest.mark.parametrize(
    ("ours", "ranpac", "joint", "met"),
    [
        ([96.0, 96.2], [95.4, 95.6], [96.9, 97.1], ["yes", "yes", "yes"]),  # +0.6, 99.07 %
        ([96.0, 96.2], [95.6, 95.8], [96.9, 97.1], ["**no**", "yes", "yes"]),  # +0.4
        ([96.0, 96.2], [95.4, 95.6], [97.2, 97.4], ["yes", "yes", "**no**"]),  # 98.77 %
    ],
)
def test_targets_of_clinc(ours, ranpac, joint, met) -> None:
    found = experiment(
        "prompt-ridge-clinc150", prompt_ridge=ours, ranpac=ranpac, joint__fine_tune=joint
    )
    rows = cells(page.targets({found.name: found}))
    assert [row[2] for row in rows] == met
    assert rows[1][1] == "1.90 ± 0.00"


@pytest.mark.parametrize(
    ("first", "met"),
    [
        ([90.2, 92.2], "yes"),  # 1.2 ahead, both deviations 1.41
        ([90.5, 92.5], "**no**"),  # 1.5 ahead
        ([91.3, 91.5], "yes"),  # 1.4 ahead: our own deviation counts, too
        ([80.0, 81.0], "yes"),  # behind
    ],
)
def test_first_or_within_a_deviation(first, met) -> None:
    found = experiment("banking77", prompt_ridge=[89.0, 91.0], ncm=first, joint__x=[99.0, 99.0])
    assert cells(page.targets({found.name: found}))[0][2] == met


def test_a_gain_is_taken_seed_by_seed() -> None:
    found = experiment(
        "prompt-ridge-cifar100-base50",
        prompt_ridge=[60.0, 70.0],
        prompt_ridge__none=[58.0, 67.5],
        prompt_ridge__none__one__layer=[50.0, 60.0],
    )
    assert cells(page.targets({found.name: found}))[0][1:] == ["+2.25 ± 0.35", "yes"]
    (row,) = cells(page.gains({found.name: found}))
    assert row == [found.name, "62.75 ± 6.72", "+2.25 ± 0.35", "–", "+7.75 ± 0.35", "–"]


def test_slots_must_be_ahead_by_two_deviations() -> None:
    ahead = experiment(
        "conflicting-intents", prompt_ridge=[90.0, 92.0], prompt_ridge__one__slot=[88.0, 89.0]
    )
    # +2 and +3: 2.5, deviation 0.71
    assert cells(page.targets({ahead.name: ahead}))[0][1:] == ["+2.50 ± 0.71", "yes"]
    near = experiment(
        "conflicting-intents", prompt_ridge=[90.0, 92.0], prompt_ridge__one__slot=[88.0, 91.5]
    )
    assert cells(page.targets({near.name: near}))[0][2] == "**no**"  # +1.25 ± 1.06
