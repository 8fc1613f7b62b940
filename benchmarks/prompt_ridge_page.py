"""Make the page of PromptRidge from the committed results: targets, gains, and what was tried.

python -m benchmarks.prompt_ridge_page            writes docs/pages/prompt-ridge.md
python -m benchmarks.prompt_ridge_page --check    writes nothing; status 1 when it is out of date
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, ROOT, read_all
from cpool._io import read_json, write_bytes
from cpool.report.results import Stat

PAGE = ROOT / "docs" / "pages" / "prompt-ridge.md"
OURS, NONE = "prompt_ridge", "prompt_ridge none"
JOINT = "joint fine_tune"
# Where it has to be first, or near: BANKING77 whole, and with few queries beside all methods.
EQUAL = (
    "prompt-ridge-banking77",
    "banking77",
    "cifar100-small",
    "fashion-mnist",
    "omniglot50",
)

HEAD = """\
# PromptRidge

<!-- Made by `python -m benchmarks.prompt_ridge_page` from benchmarks/results; changes by hand are
     lost. -->

The method of this library's own: a prefix trained once a domain and then frozen, the pooled states
of all layers of one pass, random features, and a ridge regression whose statistics add up, so that
later tasks cost a pass and no training, and tasks merge and are forgotten exactly. A prompt has to
pay: with `prompt="auto"` it is kept only if it lowers the error on held-out training rows of the
first task of its domain. [Methods](methods.md) has the equations and options.

The defaults were chosen on validation data of CLINC150 and CIFAR-100-small alone
(`python -m benchmarks.prompt_ridge_search`). What follows was measured on test data, three seeds
unless it says otherwise, mean ± sample deviation, differences seed by seed; the whole tables are
on the page of [benchmarks](benchmarks.md).
"""


@dataclass(frozen=True)
class Experiment:
    """Accuracies in percent, by row label and seed, of one committed experiment."""

    name: str
    runs: Sequence[Mapping[str, Any]]

    def values(self, label: str, metric: str = "average_accuracy") -> dict[int, float]:
        """Return one metric of a row by seed, in percent."""
        return {
            run["seed"]: 100 * run[metric]
            for run in self.runs
            if run["label"] == label and run.get(metric) is not None
        }

    def stat(self, label: str, metric: str = "average_accuracy") -> Stat | None:
        """Return mean and deviation of a row; None where it is not there."""
        return Stat.of(self.values(label, metric).values())

    def gain(self, label: str, over: str) -> Stat | None:
        """Return how far a row is ahead of another, seed by seed."""
        one, other = self.values(label), self.values(over)
        return Stat.of(one[seed] - other[seed] for seed in one if seed in other)

    def trained(self) -> str:
        """Return the label of the row whose prefix is trained, whether it pays or not."""
        label = f"{OURS} trained"
        return label if self.values(label) else OURS

    def best(self) -> str:
        """Return the label of the row in front, upper bounds apart."""
        labels = {run["label"] for run in self.runs if run["method"] != "joint"}
        stats = {label: self.stat(label) for label in labels}
        return max(sorted(labels), key=lambda label: s.mean if (s := stats[label]) else -1.0)


def _say(stat: Stat | None, *, signed: bool = False) -> str:
    if stat is None:
        return "–"
    # Adding 0 turns a −0 that rounding made into 0.
    mean = f"{round(stat.mean, 2) + 0:{'+' if signed else ''}.2f}".replace("-", "−")
    return mean if stat.deviation is None else f"{mean} ± {stat.deviation:.2f}"


def _met(known: bool) -> str:
    return "yes" if known else "**no**"


def _first(found: Mapping[str, Experiment], name: str) -> list[str]:
    """Whether PromptRidge is first, or within one deviation of the first."""
    experiment = found[name]
    best, own = experiment.best(), experiment.stat(OURS)
    lead = experiment.stat(best)
    assert own is not None and lead is not None
    allowed = max(own.deviation or 0.0, lead.deviation or 0.0)
    said = f"{_say(own)}; first `{best}` with {_say(lead)}" if best != OURS else f"{_say(own)}"
    return [
        f"{name}: first, or within a deviation of it",
        said,
        _met(lead.mean - own.mean <= allowed),
    ]


def _clinc(found: Mapping[str, Experiment]) -> list[list[str]]:
    experiment = found["prompt-ridge-clinc150"]
    ahead, own = experiment.gain(OURS, "ranpac"), experiment.stat(OURS)
    forgetting, joint = experiment.stat(OURS, "forgetting"), experiment.stat(JOINT)
    assert ahead is not None and own is not None and forgetting is not None
    rows = [
        [
            "CLINC150 whole, 15 tasks: 0.5 ahead of RanPAC with 10,000 features",
            f"{_say(own)}, {_say(ahead, signed=True)}",
            _met(ahead.mean >= 0.5),
        ],
        ["the same: forgetting at most 2", _say(forgetting), _met(forgetting.mean <= 2)],
    ]
    if joint is not None:
        share = 100 * own.mean / joint.mean
        rows.append(
            [
                "the same: at least 99 % of joint fine-tuning",
                f"{share:.1f} % of {_say(joint)}",
                _met(share >= 99),
            ]
        )
    return rows


def _domains(found: Mapping[str, Experiment], name: str, about: str) -> list[str]:
    experiment = found[name]
    gain = experiment.gain(OURS, f"{OURS} one slot")
    assert gain is not None
    return [
        f"{about}: ahead of one slot by more than two deviations",
        _say(gain, signed=True),
        _met(gain.mean > 2 * (gain.deviation or 0.0)),
    ]


def _prefix(found: Mapping[str, Experiment], name: str, about: str, wanted: float) -> list[str]:
    experiment = found[name]
    gain = experiment.gain(experiment.trained(), NONE)
    assert gain is not None
    return [
        f"{about}: {wanted:g} ahead of the same head without a prompt",
        _say(gain, signed=True),
        _met(gain.mean >= wanted),
    ]


def targets(found: Mapping[str, Experiment]) -> list[str]:
    """Return the table of what PromptRidge was to reach, and what it reached."""
    rows: list[list[str]] = []
    if "prompt-ridge-clinc150" in found:
        rows += _clinc(found)
    rows += [_first(found, name) for name in EQUAL if name in found]
    wanted: list[tuple[str, Callable[[str], list[str]]]] = [
        ("conflicting-intents", lambda n: _domains(found, n, "conflicting intents, 9 domains")),
        (
            "rotated-inverted-digits",
            lambda n: _domains(found, n, "rotated and inverted digits"),
        ),
        (
            "prompt-ridge-cifar100",
            lambda n: _prefix(found, n, "CIFAR-100-small, first task of 10 classes", 0.5),
        ),
        (
            "prompt-ridge-cifar100-base50",
            lambda n: _prefix(found, n, "CIFAR-100-small, first task of 50 classes", 2.0),
        ),
    ]
    rows += [make(name) for name, make in wanted if name in found]
    lines = ["| target | measured | met |", "| --- | --- | --- |"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def gains(found: Mapping[str, Experiment]) -> list[str]:
    """Return the table of what each part adds over the same head without a prompt."""
    lines = [
        "| experiment | no prompt | trained prefix | random prefix | layers | joint fine-tuning |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, experiment in found.items():
        one = experiment.gain(NONE, f"{NONE} one layer")
        if one is None:  # an experiment about another question
            continue
        parts = [
            _say(experiment.stat(NONE)),
            _say(experiment.gain(experiment.trained(), NONE), signed=True),
            _say(experiment.gain(f"{OURS} random", NONE), signed=True),
            _say(one, signed=True),
            _say(experiment.gain(JOINT, NONE), signed=True),
        ]
        lines.append(f"| {name} | {' | '.join(parts)} |")
    return lines


def ideas(folder: Path) -> list[str]:
    """Return the table of ideas for the head, tried on validation data."""
    files = sorted(folder.glob("*-ideas.json"))
    trials = {f.stem.removesuffix("-ideas"): read_json(f)["trials"] for f in files}
    names = list(dict.fromkeys(t["idea"] for done in trials.values() for t in done))
    if not names:
        return ["Not measured yet."]
    lines = [f"| idea | {' | '.join(trials)} |", f"| --- |{' ---: |' * len(trials)}"]
    for name in names:
        cells = []
        for done in trials.values():
            own = {t["seed"]: t["found"][t["best"]]["accuracy"] for t in done if t["idea"] == name}
            cells.append(_say(Stat.of(100 * value for value in own.values())))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def page(found: Mapping[str, Experiment], folder: Path) -> str:
    """Return the whole page."""
    lines = [HEAD, "## Targets", "", *targets(found), ""]
    lines += [
        "*Within a deviation* takes the larger deviation of the two rows. *yes* and *no* compare",
        "means, as a target says; they are no test of significance.",
        "",
        "## What each part adds",
        "",
        "Points ahead of the same head without a prompt: with a prefix that the first task",
        "trained, with one that nothing trained; *layers* is that head ahead of itself on the",
        "last layer alone; *joint fine-tuning*, which sees all tasks at once, says how badly the",
        "frozen features fit.",
        "",
        *gains(found),
        "",
        "## What else was tried",
        "",
        "Validation accuracy in % over three seeds, 4,000 features of all layers, no prompt; each",
        "idea with the best value of its knob, which favours ideas that have one. Made by",
        "`python -m benchmarks.prompt_ridge_ideas`, which names the papers.",
        "",
        *ideas(folder),
    ]
    return "\n".join(lines).rstrip() + "\n"


def content() -> str:
    """Return the page of what is committed."""
    found = {d.name: Experiment(d.name, d.results["runs"]) for d in read_all()}
    return page(found, RESULTS / "prompt-ridge-search")


def write() -> None:
    """Write the page, and say which."""
    write_bytes(PAGE, content().encode())
    print(PAGE.relative_to(ROOT))


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        write()
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != content():
        sys.exit(f"{PAGE.relative_to(ROOT)} is out of date: run python -m {__spec__.name}")


if __name__ == "__main__":
    main()
