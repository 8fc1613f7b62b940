"""Make the page of hard prompts, soft prompts and fine-tuning from the committed results.

python -m benchmarks.hard_vs_soft_page            writes docs/pages/hard-and-soft.md and its picture
python -m benchmarks.hard_vs_soft_page --check    writes nothing; status 1 when out of date
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cost_plot import Mark, cost_svg
from benchmarks.study_plot import plot_svg
from benchmarks.study_results import Table
from benchmarks.tables import RESULTS, ROOT
from cpool._io import read_json, write_bytes
from cpool.experiment.reading import read_experiment
from cpool.report import text
from cpool.report.results import Stat

PAGE = ROOT / "docs" / "pages" / "hard-and-soft.md"
PLOT = ROOT / "docs" / "pages" / "assets" / "hard-and-soft-cost.svg"
EXAMPLES = PLOT.with_name("hard-and-soft-examples.svg")
MAIN, STUDY = "hard-vs-soft", "hard_vs_soft"
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

HEAD = """\
# Hard prompts, soft prompts, fine-tuning

<!-- Made by `python -m benchmarks.hard_vs_soft_page` from benchmarks/results; changes by hand are
     lost. -->

One language model, one task, and every way to specialise it, side by side: words put in front of a
text, a few learned tokens, another model, or a head on frozen features. SNIPS has seven intents;
each method sees 16 queries of each, and is judged on 40 others of each. The model is
SmolLM2-135M-Instruct in bfloat16; a soft prompt trains in float32 in front of it, while LoRA and
full fine-tuning run a copy of the whole model in float32. All train for four epochs of four queries
a step, `linear_head` for 50 epochs. Prompts named *text* and prefixes start from the list of the
labels, which no other row that trains reads. Mean ± sample deviation over three seeds: they vary
the start, the order of the data and which examples are shown; the training queries are the same in
each.

```bash
python -m benchmarks.smollm2                # the model, once
python -m benchmarks.run_all hard-vs-soft   # resumes
```
"""

COLUMNS = """\
**trained**: parameters that gradients trained; the model has {size}. **stored**: bytes to keep for
the task; a prompt of this library comes with the statistics of the router that will choose it among
others, which are most of its bytes. **tokens**: what a request has beside its text, template and
prompt together. **ms**: of a request that comes alone, from `python benchmarks/speed/tuning.py`.
"""

TRAINING = """\
Rows that take at least a second. **s**: of one core. **energy**: an estimate, these seconds times
{watts:g} W, about what a busy core of a server draws; nothing was metered. **TFLOP**: operations of
all training steps, counted by torch in one of them. Full fine-tuning has fewer than prompt tuning,
whose tokens make every text longer, and takes longer all the same: like LoRA it runs in float32.
**step**: its time as a share of full fine-tuning's, in turns in one process. **memory**: the peak
of a process that trains with four queries a step, without what the libraries take. Both are from
`python benchmarks/speed/tuning.py`.
"""


def _kind(method: str) -> str:
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
        return [label for label, runs in self.runs.items() if _kind(runs[0]["method"]) == kind]

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
                _joules(WATTS * stat.mean),
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
            row(f"`{prompt}`: not behind `{hard}`", _signed(ahead), ahead.mean >= 0)
            row(f"`{prompt}`: within 3 points of LoRA", _signed(behind), behind.mean >= -3)
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
            f"`{closed}`, which trains nothing, is {_signed(self._gain(closed, soft))} from "
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


def _joules(value: float) -> str:
    if value < 1:
        return "< 1 J"
    return f"{value:.0f} J" if value < 1000 else f"{value / 1000:.1f} kJ"


def _signed(stat: Stat) -> str:
    spread = "" if stat.deviation is None else f" ± {stat.deviation:.1f}"
    return f"{round(stat.mean, 1) + 0:+.1f}{spread} points".replace("-", "−")


def grouped(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study whose series are kinds of rows: the best row of each, at each x.

    Args:
        document: of the study, with the panels that are done.
    """
    table, metric = Table(document), "average_accuracy"
    rows = document["settings"]["experiment"]["method"]
    methods = {row.get("label", row["name"]): row["name"] for row in rows}
    kinds = {
        "best hard prompt": [x for x in methods if _kind(methods[x]) == HARD],
        "best prompt tuning": [x for x in methods if methods[x] == SOFT],
        "prefix tuning": [x for x in methods if methods[x] == "prefix_tuning"],
        "LoRA": [x for x in methods if methods[x] == LORA],
        "fine-tuning": [x for x in methods if methods[x] == FULL],
        "best head": [x for x in methods if _kind(methods[x]) == "heads on frozen features"],
    }
    points = []
    for panel in table.panels:
        for kind, labels in kinds.items():
            for x in table.xs(panel):
                means = {
                    label: stat.mean
                    for label in labels
                    if (stat := table.stat(panel, label, x, metric)) is not None
                }
                best = max(means, key=lambda label: means[label]) if means else None
                points += [
                    {**point, "series": kind}
                    for point in document["points"]
                    if (point["panel"], point["series"], point["x"]) == (panel, best, x)
                ]
    return {**document, "points": points}


def by_examples(document: Mapping[str, Any]) -> list[str]:
    """Return a table of a grouped study: a row for each panel and x, a column for each series."""
    table = Table(document)
    names = list(dict.fromkeys(name for panel in table.panels for name in table.series(panel)))
    lines = [f"| {document['x']} | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for panel in table.panels:
        lines.append(f"| *{panel}* |{' |' * len(names)}")
        for x in table.xs(panel):
            stats = [table.stat(panel, name, x, "average_accuracy") for name in names]
            cells = [text.with_deviation(stat, 1.0, 1) for stat in stats]
            lines.append(f"| {x} | {' | '.join(cells)} |".replace(text.MISSING, "–"))
    return lines


def stream_rows(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return accuracy and forgetting of each row of the streams, side by side.

    Args:
        documents: heading → content of results.json.
    """
    runs: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for heading, results in documents.items():
        for run in results["runs"]:
            runs.setdefault(run["label"], {}).setdefault(heading, []).append(run)
    heads = [f"{what}, {heading}" for heading in documents for what in ("accuracy %", "forgetting")]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for label, found in runs.items():
        cells = []
        for heading in documents:
            for key in ("average_accuracy", "forgetting"):
                stat = Stat.of(run[key] for run in found.get(heading, []))
                cells.append(text.with_deviation(stat, 100.0, 1).replace(text.MISSING, "–"))
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    return lines


STREAMS = {"language-stream": "task not known", "language-stream-task": "task known"}


def outputs(results: Path = RESULTS) -> dict[Path, str]:
    """Return what the page and its picture must hold."""
    experiment = read_experiment(ROOT / "benchmarks" / "experiments" / f"{MAIN}.toml")
    grids = [(e.label, next(iter(e.grid.values()))) for e in experiment.methods if e.grid]
    made = Comparison(
        read_json(results / MAIN / "results.json"),
        read_json(results / "speed-tuning.json"),
        grids,
    )
    pictures = {PLOT: made.plot()}
    lines = [HEAD, *made.table(), "", COLUMNS.format(size=f"{made.parameters:,}")]
    lines += [
        *made.found(),
        "",
        made.searched(),
        "",
        "## What training costs",
        "",
        *made.training(),
        "",
    ]
    lines += [TRAINING.format(watts=WATTS)]
    lines += ['<div class="flow">', f'--8<-- "{PLOT.name}"', "</div>", ""]
    lines += ["What takes less than 0.01 s stands there.", "", "## What was aimed at", ""]
    lines += [*made.targets(), ""]
    study = results / "studies" / f"{STUDY}.json"
    if study.is_file():
        document = grouped(read_json(study))
        pictures[EXAMPLES] = plot_svg(document)
        lines += ["## From how many examples on", "", document["question"], ""]
        lines += [
            "Where a kind has several rows, the best at each number is shown, chosen after the "
            "fact on test queries; [the study](studies.md) has each row.",
            "",
        ]
        lines += [*by_examples(document), ""]
        lines += ['<div class="flow">', f'--8<-- "{EXAMPLES.name}"', "</div>", ""]
    streams = {
        heading: read_json(results / name / "results.json")
        for name, heading in STREAMS.items()
        if (results / name / "results.json").is_file()
    }
    if streams:
        lines += ["## When tasks come one after another", ""]
        lines += [f"{_sentence(next(iter(streams.values()))['description'])}", ""]
        lines += [*stream_rows(streams), ""]
    return {PAGE: "\n".join(lines).rstrip() + "\n", **pictures}


def _sentence(description: str) -> str:
    return description.rstrip(".") + ". Three seeds, mean ± sample deviation; forgetting in points."


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    for path, content in outputs().items():
        if not check:
            write_bytes(path, content.encode())
            print(path.relative_to(ROOT))
        elif not path.is_file() or path.read_text(encoding="utf-8") != content:
            sys.exit(
                f"{path.relative_to(ROOT)} is out of date: python -m benchmarks.hard_vs_soft_page"
            )


if __name__ == "__main__":
    main()
