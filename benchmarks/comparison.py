"""The rows of one comparison, with what was measured of each: tables, aims, and a picture."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cost_plot import Mark, cost_svg
from cpool.report import text
from cpool.report.results import Stat

__all__ = [
    "FULL",
    "HARD",
    "KINDS",
    "LORA",
    "SOFT",
    "WATTS",
    "Comparison",
    "joules",
    "kind_of",
    "signed",
]

FULL, LORA = "fine_tune_words", "lora"
WATTS = 10.0
KINDS = {
    "hard prompts": ("zero_shot", "few_shot", "prompt_search"),
    "a learned hard prompt": ("pez",),
    "soft prompts": ("prompt_tuning", "prefix_tuning"),
    "a changed model": ("lora", "fine_tune_words"),
    "heads on frozen features": ("linear_head", "ncm", "ranpac", "prompt_ridge"),
}
HARD = "hard prompts"
SOFT = "prompt_tuning"


def kind_of(method: str) -> str:
    """Return the kind of a method."""
    return next(kind for kind, methods in KINDS.items() if method in methods)


class Comparison:
    """The rows of the comparison, by label, with what was measured of each.

    Args:
        results: content of results.json.
        speed: content of speed-tuning.json.
        grids: label and rates of each row that was searched.
    """

    def __init__(
        self,
        results: Mapping[str, Any],
        speed: Mapping[str, Any],
        grids: Sequence[tuple[str, Sequence[float]]] = (),
    ) -> None:
        self.results, self.speed, self.grids = results, speed, grids
        self.runs: dict[str, list[Mapping[str, Any]]] = {}
        for run in results["runs"]:
            self.runs.setdefault(run["label"], []).append(run)

    def stat(self, label: str, key: str = "average_accuracy") -> Stat:
        """Return mean and deviation of what was measured of a row."""
        found = Stat.of(run[key] for run in self.runs[label])
        assert found is not None
        return found

    def accuracy(self, label: str) -> Stat:
        """Return the accuracy of a row in percent."""
        found = Stat.of(100 * run["average_accuracy"] for run in self.runs[label])
        assert found is not None
        return found

    def of_kind(self, kind: str) -> list[str]:
        """Return the rows of a kind, in order."""
        return [label for label, runs in self.runs.items() if kind_of(runs[0]["method"]) == kind]

    def best(self, labels: Sequence[str]) -> str:
        """Return the row with the highest accuracy."""
        return max(labels, key=lambda label: self.accuracy(label).mean)

    def measured(self, label: str, key: str) -> Any:
        """Return what the step of tuning cost; None where nothing trains."""
        return self.speed["rows"][label].get(key)

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return int(self.runs[FULL][0]["trainable_parameters"])

    def teraflops(self, label: str) -> float | None:
        """Return the operations of all steps of training, in units of 10^12."""
        step, run = self.measured(label, "flops_per_step"), self.runs[label][0]
        if step is None:
            return None
        samples = self.results["stream"]["train_sizes"][0]
        size = run["train"]["batch_size"]
        assert size == self.speed["batch_size"]
        return float(run["train"]["epochs"] * -(-samples // size) * step / 1e12)

    def table(self) -> list[str]:
        """Return accuracy, size and the cost of a request of all rows, by kind."""
        heads = ["", "accuracy %", "trained", "stored", "tokens", "ms"]
        lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
        for kind in KINDS:
            lines.append(f"| *{kind}* |{' |' * (len(heads) - 1)}")
            lines += [f"| {' | '.join(self._row(label))} |" for label in self.of_kind(kind)]
        return lines

    def _row(self, label: str) -> list[str]:
        trained = self.stat(label, "trainable_parameters").mean
        return [
            f"`{label}`",
            text.with_deviation(self.accuracy(label), 1.0, 1),
            text.count(trained) if trained else "0",
            text.size(self.stat(label, "bytes_per_task").mean),
            f"{self.measured(label, 'tokens_added'):.0f}",
            f"{1000 * self.measured(label, 'request_seconds'):.0f}",
        ]

    def training(self) -> list[str]:
        """Return what training cost, of all rows that take a second or more."""
        heads = ["", "s", "energy", "TFLOP", "step", "memory"]
        lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
        for label in self.runs:
            stat = self.stat(label, "train_seconds")
            if stat.mean < 1:
                continue
            work, memory = self.teraflops(label), self.measured(label, "peak_bytes")
            step = self.measured(label, "step_over_full")
            cells = [
                f"`{label}`",
                text.with_deviation(stat, 1.0, 0 if stat.mean >= 10 else 1),
                joules(WATTS * stat.mean),
                "–" if work is None else f"{work:.1f}",
                "–" if step is None else f"{step:.2f} ×",
                "–" if memory is None else text.size(memory),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def targets(self) -> list[str]:
        """Return what was aimed at, what came of each prompt, and whether it is met."""
        prompts = [label for label, runs in self.runs.items() if runs[0]["method"] == SOFT]
        hard = self.best(self.of_kind(HARD))
        full, peft = self.measured(FULL, "peak_bytes"), self.speed["words"]["step_over_peft"]
        lines = ["| aim | measured | met |", "| --- | --- | --- |"]

        def row(aim: str, measured: str, met: bool) -> None:
            lines.append(f"| {aim} | {measured} | {'yes' if met else '**no**'} |")

        for prompt in prompts:
            ahead, behind = self._gain(prompt, hard), self._gain(prompt, LORA)
            row(f"`{prompt}`: not behind `{hard}`", signed(ahead), ahead.mean >= 0)
            row(f"`{prompt}`: within 3 points of LoRA", signed(behind), behind.mean >= -3)
        share = max(self.stat(p, "trainable_parameters").mean for p in prompts) / self.parameters
        step = max(self.measured(p, "step_over_full") for p in prompts)
        memory = max(self.measured(p, "peak_bytes") for p in prompts) / full
        row("at most 0.1 % of the parameters", _share(share), share <= 0.001)
        row("a step in at most 60 % of full fine-tuning's time", f"{step:.0%}", step <= 0.6)
        row("at most 50 % of its peak memory", f"{memory:.0%}", memory <= 0.5)
        row("a step in no more time than PEFT's, same words", f"{peft:.2f} ×", peft <= 1)
        return [re.sub(r"(\d)%", r"\1 %", line) for line in lines]

    def _gain(self, one: str, other: str) -> Stat:
        left, right = ({r["seed"]: r for r in self.runs[name]} for name in (one, other))
        key = "average_accuracy"
        found = Stat.of(100 * (left[seed][key] - right[seed][key]) for seed in left)
        assert found is not None
        return found

    def found(self) -> list[str]:
        """Say what the table says."""
        named = {kind: self.best(self.of_kind(kind)) for kind in KINDS}
        lead = self.best(list(self.runs))
        heads = self.of_kind("heads on frozen features")
        closed = self.best([x for x in heads if not self.stat(x, "trainable_parameters").mean])
        soft = self.best(self.of_kind("soft prompts"))
        return [
            f"The best of each kind, chosen on the test queries themselves (`{lead}` leads):",
            "",
            *(
                f"- {kind}: `{label}`, {text.with_deviation(self.accuracy(label), 1.0, 1)} %"
                for kind, label in named.items()
            ),
            "",
            f"`{closed}`, which trains nothing, is {signed(self._gain(closed, soft))} from "
            f"`{soft}`, for {self.stat(closed, 'train_seconds').mean:.1f} s in place of "
            f"{self.stat(soft, 'train_seconds').mean:.0f} s. A prompt keeps the model a language "
            "model, whose answers are words, also labels that it was never shown.",
        ]

    def searched(self) -> str:
        """Say how rates were searched, and which of them lie on the edge of their grid."""
        plan = self.results["search"]
        edges, inner = [], []
        for entry in self.grids:
            label, values = entry
            chosen = next(iter(self.runs[label][0]["search"]["chosen"].values()))
            edge = "lowest" if chosen == min(values) else "highest" if chosen == max(values) else ""
            (edges if edge else inner).append(f"`{label}` {chosen:g}{edge and f' ({edge})'}")
        return (
            f"Rates were searched: three for each row, on {plan['validation_samples']} of the "
            f"training queries, so that one query is {100 / plan['validation_samples']:.1f} "
            f"points. At an end of their grid, and perhaps better beyond it: {', '.join(edges)}; "
            f"inside: {', '.join(inner) or 'none'}."
        )

    def plot(self) -> str:
        """Draw accuracy over the seconds of training."""
        marks = [
            Mark(
                label,
                kind,
                max(0.01, self.stat(label, "train_seconds").mean),
                self.accuracy(label),
            )
            for kind in KINDS
            for label in self.of_kind(kind)
        ]
        units = {0.01: "0.01 s", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}
        return cost_svg(
            marks, "training on one core (logarithmic)", "Accuracy against training time", units
        )


def _share(value: float) -> str:
    percent = 100 * value
    return f"{percent:.3g} %" if percent < 100 else "100 %"


def joules(value: float) -> str:
    """Write an energy in joules.

    >>> joules(0.2), joules(54.2), joules(1951.0)
    ('< 1 J', '54 J', '2.0 kJ')
    """
    if value < 1:
        return "< 1 J"
    return f"{value:.0f} J" if value < 1000 else f"{value / 1000:.1f} kJ"


def signed(stat: Stat) -> str:
    """Write a difference in points, mean ± sample deviation.

    >>> signed(Stat(-1.25, 0.5, 3)), signed(Stat(2.0, None, 1))
    ('−1.2 ± 0.5 points', '+2.0 points')
    """
    spread = "" if stat.deviation is None else f" ± {stat.deviation:.1f}"
    return f"{round(stat.mean, 1) + 0:+.1f}{spread} points".replace("-", "−")
