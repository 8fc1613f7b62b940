"""The page of PromptRidge says what the committed results say, and judges its targets rightly."""

from typing import Any

import pytest

from benchmarks import prompt_ridge_page as page
from benchmarks.prompt_ridge_judges import WAYS
from benchmarks.prompt_ridge_log import defaults, ideas, judges, penalties
from benchmarks.prompt_ridge_penalties import WAYS as PENALTIES
from benchmarks.prompt_ridge_reading import ASKED, differences, not_run, why
from benchmarks.prompt_ridge_rows import Experiment, paragraph
from benchmarks.study_page import found
from benchmarks.study_results import Table
from benchmarks.tables import RESULTS
from cpool._io import read_json, write_json

LOGS = RESULTS / "prompt-ridge-search"


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
    target = cells(page.targets({found.name: found}))[0]
    assert target[1:] == ["`prompt_ridge`: +2.25 ± 0.35", "yes"]
    (row,) = cells(page.gains({found.name: found}))
    gain, layers = "+2.25 ± 0.35", "+7.75 ± 0.35"
    assert row == [found.name, "62.75 ± 6.72", gain, "–", "–", layers, "–", "–"]


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


BARE, KEPT = [[0.5]], [[0.6]]


def with_default(matrices: list[Any], **rows: list[float]) -> Experiment:
    """Return the experiment of a target, and whether its default kept the prompt, seed by seed."""
    rows = {"prompt_ridge__none": [50.0] * 3, "prompt_ridge__none__one__layer": [40.0] * 3, **rows}
    found = experiment("prompt-ridge-cifar100-base50", prompt_ridge=[50.0, 50.0, 56.0], **rows)
    for run in found.runs:
        label = run["label"]
        own = matrices[run["seed"]] if label == "prompt_ridge" else BARE
        run["accuracy_matrix"] = KEPT if label == "prompt_ridge trained" else own
        chosen = {"prompt_ridge": "auto", "prompt_ridge trained": "trained"}.get(label, "none")
        run["hyper_parameters"] = {"prompt": chosen, "ridge": 0.003}
    return found


def test_a_refused_prompt_is_no_trained_prefix() -> None:
    found = with_default([BARE, BARE, BARE])
    assert cells(page.gains({found.name: found}))[0][2:4] == ["refused", "–"]
    measured = cells(page.targets({found.name: found}))[0][1]
    assert measured == "`prompt_ridge`: +2.00 ± 3.46, its prompt refused with 3 of 3 seeds"
    found = with_default([BARE, BARE, KEPT])
    assert found.refused() == [0, 1]
    assert cells(page.gains({found.name: found}))[0][2] == "+2.00 ± 3.46, 2 of 3 refused"


def test_a_row_that_keeps_its_prefix_is_picked_up_when_it_is_there() -> None:
    found = with_default([BARE, BARE, KEPT], prompt_ridge__trained=[53.0] * 3)
    assert cells(page.gains({found.name: found}))[0][3] == "+3.00 ± 0.00"
    measured, met = cells(page.targets({found.name: found}))[0][1:]
    assert measured == (
        "`prompt_ridge`: +2.00 ± 3.46, its prompt refused with 2 of 3 seeds; "
        "`prompt_ridge trained`: +3.00 ± 0.00"
    )
    assert met == "yes", "the default meets it"
    for run in found.runs:  # as good with a prefix as without: who can tell which it is?
        run["accuracy_matrix"] = BARE
    assert found.refused() == []


def test_a_default_that_the_search_trained_stands_where_it_belongs() -> None:
    found = with_default([KEPT, KEPT, KEPT])
    for run in found.runs:
        if run["label"] == "prompt_ridge":
            run["hyper_parameters"]["prompt"] = "trained"
    assert cells(page.gains({found.name: found}))[0][2:4] == ["–", "+2.00 ± 3.46"]


def test_rows_with_another_ridge_are_marked() -> None:
    found = with_default([KEPT, KEPT, KEPT])
    for run in found.runs:
        if run["label"] == "prompt_ridge none one layer":
            run["hyper_parameters"]["ridge"] = 0.5
    assert cells(page.gains({found.name: found}))[0][5] == "+10.00 ± 0.00 †"


def test_control_rows_that_were_not_run_are_named() -> None:
    found = with_default([KEPT, KEPT, KEPT], prompt_ridge__random=[50.0], joint__prompt=[60.0])
    said = not_run({found.name: found, "another": found})
    assert [line for line in said if "|" in line][2:] == [
        f"| {found.name} | trained prefix, joint fine-tuning |"
    ]
    rows = {"prompt_ridge__trained": [1.0], "joint__fine_tune": [2.0]}
    whole = with_default([KEPT] * 3, prompt_ridge__random=[50.0], joint__prompt=[60.0], **rows)
    assert not_run({whole.name: whole}) == []


def test_the_page_names_every_control_row_that_is_not_there() -> None:
    found = {
        name: Experiment(name, read_json(RESULTS / name / "results.json")["runs"]) for name in ASKED
    }
    table = {line.split("|")[1].strip(): line for line in not_run(found) if line.startswith("| ")}
    for name, experiment in found.items():
        for label, words in {
            "joint prompt": "joint prefix",
            "prompt_ridge random": "random",
        }.items():
            assert (words in table.get(name, "")) is not bool(experiment.of(label)), (name, label)


def test_what_is_said_of_the_search_is_in_its_log() -> None:
    said = " ".join(" ".join(defaults(LOGS)).split())
    logs = {name: read_json(LOGS / f"{name}.json")["trials"] for name in ("clinc150", "cifar100")}
    for trials in logs.values():
        later = [trial for trial in trials if trial["seed"]]
        assert {trial["prefix"] for trial in later} <= {"trained", "random", "none"}
        assert {str(trial["head"]) for trial in later} == {
            "{'layers': 1.0, 'kind': 'cosine', 'gamma': 0.7, 'projection': 4000}"
        }
    assert not [trial for trial in logs["clinc150"] if trial["prefix"] == "auto"]
    assert "seeds 0, 1, 2; other prefixes with seed 0 (length 4" in said
    assert {trial["seed"] for trial in logs["cifar100"]} == {0, 1}
    assert "seeds 0, 1; no other length" in said
    assert "64.90 %, where the trained prefix had 65.45 % and no prefix 64.50 %" in said
    assert "No trial of this log speaks" in said


def test_a_trial_that_speaks_for_the_default_is_not_denied(tmp_path) -> None:
    for name in ("clinc150", "cifar100"):
        log = read_json(LOGS / f"{name}.json")
        for trial in log["trials"]:
            if trial["prefix"] == "auto":
                trial["by_ridge"]["0.003"]["accuracy"] = 0.7
        write_json(tmp_path / f"{name}.json", log)
    assert "No trial of this log" not in " ".join(defaults(tmp_path))


def judged(seed: int, gain: float, added: float, prefix: str = "judged") -> dict[str, Any]:
    """Return a trial whose last way sees `gain` ± 0.1, and the others what is wrong."""
    way = {"gain": -gain, "error": 0.1}
    return {
        "prefix": prefix,
        "seed": seed,
        **dict.fromkeys(WAYS[:2], way),
        WAYS[2]: {"gain": gain, "error": 0.1},
        "none": {"accuracy": 0.5},
        "prompt": {"accuracy": 0.5 + added / 100},
    }


def test_what_a_rule_gives_counts_the_prompts_that_it_keeps(tmp_path) -> None:
    assert judges(tmp_path) == ["Not measured yet."]
    trials = [judged(0, 0.3, 2.0), judged(1, 0.15, -1.0), judged(2, -0.2, -4.0)]
    write_json(tmp_path / "some-judges.json", {"trials": trials})
    lines = judges(tmp_path)
    assert (
        lines[2] == "| some | 0 | −0.3000 ± 0.1000 | −0.3000 ± 0.1000 | +0.3000 ± 0.1000 | +2.00 |"
    )
    # always (2 − 1 − 4) / 3; by the trained rows the third alone; above 0 two; by two errors one
    assert lines[-1] == "| some | 3 | −1.00 | −1.33 | +0.33 | +0.67 |"


def test_the_rule_is_ahead_of_the_one_before_on_the_rows_it_was_chosen_on() -> None:
    rows = [[float(c.replace("−", "-")) for c in line.split("|")[3:-1]] for line in means(LOGS)]
    assert len(rows) >= 4
    always, before, above_0, two_errors = (sum(column) for column in zip(*rows, strict=True))
    assert two_errors > before + 1
    assert max(abs(two_errors - other) for other in (always, above_0)) < 0.2, "not parted"


def means(folder) -> list[str]:
    lines = judges(folder)
    return lines[lines.index("Mean points over no prompt if each rule is followed:") + 4 :]


def test_what_each_way_to_choose_a_penalty_gives_is_the_mean_over_seeds(tmp_path) -> None:
    assert penalties(tmp_path) == ["Not measured yet."]
    trials = [
        {"way": way, "seed": seed, "accuracies": accuracies, "seconds": seconds}
        for way, seed, accuracies, seconds in [
            ("0.003", 0, [0.8, 0.6], 1.0),
            ("0.003", 1, [1.0, 0.7], 3.0),
            ("left out", 0, [0.9, 0.8], 5.0),
        ]
    ]
    write_json(tmp_path / "some-penalties.json", {"trials": trials})
    lines = penalties(tmp_path)
    assert lines[2] == "| some | 2 | 65.00 / 77.50 | – | – | 80.00 / 85.00 |"
    assert "took 2.5 to 2.5 times as long as with *0.003*" in lines[-1]


def test_the_default_penalty_is_the_best_on_the_rows_it_was_chosen_on() -> None:
    lines = [line for line in penalties(LOGS)[2:] if line.startswith("|")]
    rows = {line.split("|")[1].strip(): line.split("|")[3:-1] for line in lines}
    assert {"clinc150", "clinc150-few", "cifar100", "cifar100-few", "cifar100-base50"} == set(rows)

    def last(name: str, way: str) -> float:
        return float(rows[name][list(PENALTIES).index(way)].split("/")[0])

    for name in rows:
        assert last(name, "left out") > last(name, "0.003") - 0.15
        assert last(name, "newest task") < last(name, "left out") - 2
    assert last("cifar100-few", "left out") > last("cifar100-few", "0.003") + 1
    squares = [name for name in rows if name.endswith("-few")]
    assert all(last(n, "left out, squared error") < last(n, "left out") for n in squares)
    for name in squares:
        trials = read_json(LOGS / f"{name}-penalties.json")["trials"]
        shares = {(t["way"], t["seed"]): t["shares"][-1] for t in trials}
        larger = [shares["left out, squared error", s] - shares["left out", s] for s in range(6)]
        assert min(larger) >= 0 and sum(larger) > 0


def test_experiments_of_an_older_penalty_are_named() -> None:
    found = with_default([KEPT, KEPT, KEPT])
    (said,) = page.older({found.name: found})
    assert found.name in said
    for run in found.runs:
        run["hyper_parameters"]["ridge"] = "left_out"
    assert page.older({found.name: found}) == []


def test_each_column_of_ideas_says_how_many_seeds_it_has() -> None:
    assert (
        ideas(LOGS)[0]
        == "| idea | banking77 (3 seeds) | cifar100 (one seed) | clinc150 (3 seeds) |"
    )


def test_the_reading_is_what_the_results_say() -> None:
    found = {d.name: Experiment(d.name, d.results["runs"]) for d in page.read_all()}
    assert why({name: found[name] for name in found if name != "banking77"}, LOGS) == []
    assert "## Why rows without a prompt lead" in why(found, LOGS)

    def mean(name: str, label: str, over: str) -> float:
        gain = found[name].gain(label, over)
        assert gain is not None
        return gain.mean

    none, one, random = page.NONE, page.ONE_LAYER, page.RANDOM
    few = found["banking77"]
    assert few.best() == "ranpac"
    for label in (page.OURS, few.trained() or "", random):
        assert abs(mean("banking77", label, none)) < 0.25
    assert -1.5 < mean("banking77", none, one) < -0.5
    assert -1 < mean("banking77", one, "ranpac") < 0
    layers, ridges = differences(read_json(LOGS / "banking77-ideas.json")["trials"])
    assert layers is not None and abs(layers.mean) < 0.5
    assert ridges is not None and ridges.mean > 0.5
    for label in (none, one):
        assert mean("prompt-ridge-banking77", label, "ranpac") > 0
    assert mean("prompt-ridge-banking77", none, one) > 0
    for name in ("fashion-mnist", "prompt-ridge-clinc150", "clinc150-15"):
        assert mean(name, none, one) > 0.5
    images, letters = found["fashion-mnist"], found["omniglot50"]
    trained = images.trained() or ""
    assert mean("fashion-mnist", random, none) < mean("fashion-mnist", trained, none) < 0
    for label, over in (
        (letters.trained(), none),
        (random, none),
        (page.OURS, none),
        (none, one),
    ):
        gain = letters.gain(label, over)
        assert gain is not None and gain.deviation is not None
        assert abs(gain.mean) < gain.deviation
    words = found["clinc150-15"]
    for label in (page.OURS, words.trained() or ""):
        assert 0.1 < mean(words.name, label, none) < mean(words.name, none, one) / 4
    assert abs(mean("prompt-ridge-clinc150", page.OURS, none)) < 0.2
    cifar = found["prompt-ridge-cifar100"]
    prompt = cifar.trained() or page.OURS
    gain = cifar.gain(prompt, none)
    assert gain is not None and gain.deviation is not None
    assert mean(cifar.name, prompt, random) > -mean(cifar.name, random, none) > 0
    assert gain.mean < 2.5 * gain.deviation  # what a paired t test of three seeds would ask
    assert len(cifar.refused()) == 2
    base = found["prompt-ridge-cifar100-base50"]
    assert mean(base.name, base.trained() or "", none) > gain.mean
    for label in (page.OURS, base.trained()):
        gain = base.gain(label, none)
        assert gain is not None and gain.deviation is not None
        assert gain.mean > 2.5 * gain.deviation
    assert base.default() == page.OURS and not base.refused()
    joint = [e.gain(page.PROMPT, none) for e in page.asked(found).values()]
    assert all(gain.mean < 0 for gain in joint if gain is not None)


def test_code_stays_in_one_line() -> None:
    lines = paragraph("- " + "word " * 17 + '`prompt = "auto"` ' + "word " * 9).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith('  `prompt = "auto"` word')


def test_the_page_says_of_the_study_what_it_found() -> None:
    document = read_json(RESULTS / "studies" / "when_does_a_prompt_pay.json")
    assert found(Table(document))[0].startswith(
        "Of 24 differences to prompt_ridge none, prompt_ridge is clearly above in 0 and clearly "
        "below in 3 ("
    )
