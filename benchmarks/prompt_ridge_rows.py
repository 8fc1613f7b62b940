"""The rows of PromptRidge in a committed experiment: which is which, and how far one is ahead."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpool.report.results import Stat

__all__ = [
    "JOINT",
    "NONE",
    "ONE_LAYER",
    "OURS",
    "PROMPT",
    "RANDOM",
    "Experiment",
    "paragraph",
    "points",
    "said",
]

OURS, NONE = "prompt_ridge", "prompt_ridge none"
RANDOM, ONE_LAYER = f"{OURS} random", f"{NONE} one layer"
JOINT, PROMPT = "joint fine_tune", "joint prompt"


@dataclass(frozen=True)
class Experiment:
    """Accuracies in percent, by row label and seed, of one committed experiment."""

    name: str
    runs: Sequence[Mapping[str, Any]]

    def of(self, label: str) -> dict[int, Mapping[str, Any]]:
        """Return the runs of a row by seed."""
        return {run["seed"]: run for run in self.runs if run["label"] == label}

    def values(self, label: str, metric: str = "average_accuracy") -> dict[int, float]:
        """Return one metric of a row by seed, in percent."""
        runs = self.of(label).items()
        return {seed: 100 * run[metric] for seed, run in runs if run.get(metric) is not None}

    def stat(self, label: str, metric: str = "average_accuracy") -> Stat | None:
        """Return mean and deviation of a row; None where it is not there."""
        return Stat.of(self.values(label, metric).values())

    def gain(self, label: str | None, over: str) -> Stat | None:
        """Return how far a row is ahead of another, seed by seed; None where one is not there."""
        one, other = self.values(label or ""), self.values(over)
        return Stat.of(one[seed] - other[seed] for seed in one if seed in other)

    def choice(self, label: str, key: str) -> Any:
        """Return a hyper-parameter of a row; None where it is not recorded."""
        runs = self.of(label).values()
        return next((run.get("hyper_parameters", {}).get(key) for run in runs), None)

    def trained(self) -> str | None:
        """Return the label of the row whose prefix is trained and stays, whether it pays or not."""
        named = f"{OURS} trained"
        if self.of(named):
            return named
        return OURS if self.choice(OURS, "prompt") == "trained" else None

    def default(self) -> str | None:
        """Return the label of the row with `prompt = "auto"`, which may refuse its prompt."""
        return OURS if self.of(OURS) and self.trained() != OURS else None

    def refused(self) -> list[int]:
        """Return the seeds with which the default refused its prompt, as the accuracies show.

        The results do not record it. Accuracies of a refused prompt are those without one, after
        every task and on every task. Where a trained prefix has the same ones, they show nothing,
        and the seed is left out.
        """
        label, trained = self.default(), self.of(self.trained() or "")
        if label is None:
            return []
        key, bare = "accuracy_matrix", self.of(NONE)
        return [
            seed
            for seed, run in sorted(self.of(label).items())
            if run.get(key) is not None
            and run[key] == bare.get(seed, {}).get(key)
            and run[key] != trained.get(seed, {}).get(key)
        ]

    def best(self) -> str:
        """Return the label of the row in front, those that see all tasks at once apart."""
        labels = {run["label"] for run in self.runs if run["method"] != "joint"}
        stats = {label: self.stat(label) for label in labels}
        return max(sorted(labels), key=lambda label: s.mean if (s := stats[label]) else -1.0)


def said(stat: Stat | None, *, signed: bool = False) -> str:
    """Write mean and deviation for the page.

    >>> said(Stat(-1.5, 0.25, 3), signed=True), said(None)
    ('−1.50 ± 0.25', '–')
    """
    if stat is None:
        return "–"
    # Adding 0 turns a −0 that rounding made into 0.
    mean = f"{round(stat.mean, 2) + 0:{'+' if signed else ''}.2f}".replace("-", "−")
    return mean if stat.deviation is None else f"{mean} ± {stat.deviation:.2f}"


def points(experiment: Experiment, label: str | None, over: str) -> str:
    """Write how far a row is ahead of another."""
    return said(experiment.gain(label, over), signed=True)


def paragraph(text: str) -> str:
    """Break a paragraph, or an item of a list, into lines for the page."""
    inner = "  " if text.startswith("- ") else ""
    # Code stays in one line.
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.fill(
        whole, 100, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False
    )
    return lines.replace("\0", " ")
