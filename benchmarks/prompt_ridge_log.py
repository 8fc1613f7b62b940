"""What the logs of PromptRidge's search hold: the defaults, and the ideas that were tried."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.prompt_ridge_rows import paragraph, said
from cpool._io import read_json
from cpool.report.results import Stat

__all__ = ["defaults", "ideas"]

NAMES = {"clinc150": "CLINC150", "cifar100": "CIFAR-100-small"}
USUAL = ("trained", "random", "none")
CHOSEN = (
    "The defaults were chosen on validation data of CLINC150 and CIFAR-100-small "
    "(`python -m benchmarks.prompt_ridge_search`), most of them on one order of the classes: "
    "layers, kind, γ and number of features were tried with seed 0 alone. The log holds"
)
UNSUPPORTED = (
    'So no trial speaks for `prompt = "auto"` against `"trained"`: no search chose this default.'
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
