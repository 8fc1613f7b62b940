"""What the logs of PromptRidge's search hold: its defaults, its judgements, λ, the ideas."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.prompt_ridge_judges import WAYS
from benchmarks.prompt_ridge_penalties import WAYS as PENALTIES
from benchmarks.prompt_ridge_rows import paragraph, said
from cpool._io import read_json
from cpool.report.results import Stat

__all__ = ["defaults", "ideas", "judges", "penalties"]

NAMES = {"clinc150": "CLINC150", "cifar100": "CIFAR-100-small"}
USUAL = ("trained", "random", "none")
CHOSEN = (
    "The defaults were chosen on validation data of CLINC150 and CIFAR-100-small "
    "(`python -m benchmarks.prompt_ridge_search`), most of them on one order of the classes: "
    "layers, kind, γ and number of features were tried with seed 0 alone. The log holds"
)
UNSUPPORTED = (
    'No trial of this log speaks for `prompt = "auto"` against `"trained"`, and in this one "auto" '
    "judged by another rule than it does now; [those below](#when-a-prompt-is-kept) are about that."
)
NO_AUTO = 'no trial of `prompt = "auto"`'
Trials = Sequence[Mapping[str, Any]]


def defaults(folder: Path) -> list[str]:
    """Say on what the defaults were chosen, as far as the logs hold it.

    Args:
        folder: of the logs.
    """
    logs = {name: read_json(folder / f"{name}.json")["trials"] for name in NAMES}
    unsupported = [] if any(map(_better, logs.values())) else [UNSUPPORTED, ""]
    return [
        paragraph(CHOSEN),
        "",
        *(paragraph(_log(name, logs[name])) for name in NAMES),
        "",
        *unsupported,
        "The rule that gives a later domain a slot was changed after a run on test data",
        "([footnote 1](#targets)).",
    ]


def _log(name: str, trials: Trials) -> str:
    seeds = ", ".join(map(str, sorted({trial["seed"] for trial in trials})))
    knobs = dict.fromkeys(t["prefix"] for t in trials if t["prefix"] not in (*USUAL, "auto"))
    tried = "no other length, rate or number of epochs of the prefix"
    if knobs:
        tried = f"other prefixes with seed 0 ({', '.join(knobs)})"
    auto = "; ".join(_auto(t, trials) for t in trials if t["prefix"] == "auto")
    return (
        f"- {NAMES[name]}: {len(trials)} trials; trained, random and no prefix with the seeds "
        f"{seeds}; {tried}; {auto or NO_AUTO}."
    )


def _auto(trial: Mapping[str, Any], trials: Trials) -> str:
    beside = {
        other["prefix"]: f"{100 * _best(other):.2f} %"
        for other in trials
        if (other["seed"], other["head"]) == (trial["seed"], trial["head"])
    }
    kept = "kept" if trial["decision"][2] else "refused"
    return (
        f'`prompt = "auto"` with seed {trial["seed"]}, which {kept} its prompt: {beside["auto"]}, '
        f"where the trained prefix had {beside['trained']} and no prefix {beside['none']}"
    )


def _better(trials: Trials) -> bool:
    """Whether any trial of "auto" is ahead of the same head with a trained prefix."""
    trained = {(t["seed"], str(t["head"])): _best(t) for t in trials if t["prefix"] == "trained"}
    auto = [t for t in trials if t["prefix"] == "auto"]
    return any(_best(t) > trained.get((t["seed"], str(t["head"])), 1.0) for t in auto)


def _best(trial: Mapping[str, Any]) -> float:
    return max(float(found["accuracy"]) for found in trial["by_ridge"].values())


def judges(folder: Path) -> list[str]:
    """Return what each way to judge a prompt said of it, and what following it would have given."""
    every: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(folder.glob("*-judges.json")):
        for trial in read_json(file)["trials"]:
            name = file.stem.removesuffix("-judges") + trial["prefix"].removeprefix("judged")
            every.setdefault(name, []).append(trial)
    if not every:
        return ["Not measured yet."]
    lines = [
        f"| data set | seed | {' | '.join(WAYS)} | the prompt adds |",
        f"| --- | ---: |{' ---: |' * (len(WAYS) + 1)}",
    ]
    for name, trials in every.items():
        for trial in trials:
            gains = [f"{_signed(trial[w]['gain'], 4)} ± {trial[w]['error']:.4f}" for w in WAYS]
            cells = [name, str(trial["seed"]), *gains, _signed(_added(trial), 2)]
            lines.append(f"| {' | '.join(cells)} |")
    rules: dict[str, Callable[[Mapping[str, Any]], bool]] = {
        "kept always": lambda trial: True,
        f"{WAYS[0]}, gain above 0": lambda trial: trial[WAYS[0]]["gain"] > 0,
        f"{WAYS[2]}, above 0": lambda trial: trial[WAYS[2]]["gain"] > 0,
        f"{WAYS[2]}, above two errors": lambda trial: (
            trial[WAYS[2]]["gain"] > 2 * trial[WAYS[2]]["error"]
        ),
    }
    lines += [
        "",
        "Mean points over no prompt if each rule is followed:",
        "",
        f"| data set | seeds | {' | '.join(rules)} |",
        f"| --- | ---: |{' ---: |' * len(rules)}",
    ]
    for name, trials in every.items():
        means = [
            sum(_added(trial) for trial in trials if keeps(trial)) / len(trials)
            for keeps in rules.values()
        ]
        cells = [name, str(len(trials)), *(_signed(mean, 2) for mean in means)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _added(trial: Mapping[str, Any]) -> float:
    return 100 * float(trial["prompt"]["accuracy"] - trial["none"]["accuracy"])


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0:+.{digits}f}".replace("-", "−")


def penalties(folder: Path) -> list[str]:
    """Return the accuracies with each way to choose λ, after the last task and over all tasks."""
    files = sorted(folder.glob("*-penalties.json"))
    logs = {file.stem.removesuffix("-penalties"): read_json(file)["trials"] for file in files}
    if not logs:
        return ["Not measured yet."]
    lines = [
        f"| data set | seeds | {' | '.join(PENALTIES)} |",
        f"| --- | ---: |{' ---: |' * len(PENALTIES)}",
    ]
    for name, trials in logs.items():
        seeds = {trial["seed"] for trial in trials}
        cells = [_accuracies([t for t in trials if t["way"] == way]) for way in PENALTIES]
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    fixed, *_, ours = PENALTIES
    times = sorted(_seconds(trials, ours) / _seconds(trials, fixed) for trials in logs.values())
    cost = (
        f"Learning with *{ours}* took {times[0]:.1f} to {times[-1]:.1f} times as long as with "
        f"*{fixed}*, without the passes of the model, which take as long with each."
    )
    return [*lines, "", paragraph(cost)]


def _seconds(trials: Trials, way: str) -> float:
    found = [trial["seconds"] for trial in trials if trial["way"] == way]
    return sum(found) / len(found)


def _accuracies(trials: Trials) -> str:
    if not trials:
        return "–"
    last = [trial["accuracies"][-1] for trial in trials]
    every = [sum(trial["accuracies"]) / len(trial["accuracies"]) for trial in trials]
    return " / ".join(f"{100 * sum(values) / len(values):.2f}" for values in (last, every))


def ideas(folder: Path) -> list[str]:
    """Return the table of ideas for the head, tried on validation data."""
    files = sorted(folder.glob("*-ideas.json"))
    trials = {f.stem.removesuffix("-ideas"): read_json(f)["trials"] for f in files}
    names = list(dict.fromkeys(t["idea"] for done in trials.values() for t in done))
    if not names:
        return ["Not measured yet."]
    heads = [f"{name} ({_seeds(done)})" for name, done in trials.items()]
    lines = [f"| idea | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(trials)}"]
    for name in names:
        cells = []
        for done in trials.values():
            own = {t["seed"]: t["found"][t["best"]]["accuracy"] for t in done if t["idea"] == name}
            cells.append(said(Stat.of(100 * value for value in own.values())))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _seeds(trials: Trials) -> str:
    number = len({trial["seed"] for trial in trials})
    return "one seed" if number == 1 else f"{number} seeds"
