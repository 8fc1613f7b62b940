"""The page about peers, from what was measured."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.counted import counted
from benchmarks.peers.environment import ROOT
from benchmarks.peers.published import PUBLISHED
from benchmarks.peers.settings import COMPARISONS, PATCHES, TARGETS, Target
from cpool._io import read_json
from cpool.report import text
from cpool.report.results import Stat

RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "pages" / "peers.md"
NONE = "–"

HEAD = """\
# Beside other libraries

<!-- Made by `python -m benchmarks.peers` from benchmarks/results; changes by hand are lost. -->

The same method in other libraries, on the same streams, with the same weights of the frozen model,
the same epochs, batches and learning rates. `python -m benchmarks.peers` makes an environment for
each library that needs one of its own, runs all of them, and writes this page.

- Each measurement is a process of its own with one thread. The libraries take turns, one round a
  seed; the stream, its samples and the start of what is trained are drawn by the seed.
- **whole**, **training**, **evaluation**: how many times as fast as the library that has 1.00 ×,
  median over the rounds, with the least and the largest in brackets. *Whole* is building the
  model, training all tasks, and evaluating all tasks seen so far after each; imports are not in it.
  *Afresh* is one more evaluation of all tasks, for which cpool may use nothing that it kept. The
  seconds are those of the processor: other work on the machine changes them less than those of the
  clock, which are in `benchmarks/results/peers.json`, but not little. Differences within the
  brackets say nothing.
- **s**: those seconds of the whole run, median.
- **accuracy**: average accuracy after the last task in percent, **forgetting** in points, both
  [from the same matrix](metrics.md); mean ± sample deviation over the seeds.
- **resident**: the peak of the memory of the process; **run**: of it, what came after the imports.
- **model**: bytes of all parameters and buffers held, the frozen model included. **trained**:
  numbers that gradients trained.
"""

BOUNDS = """\
## What a cache can give

cpool computes the query of a sample once, Avalanche in every epoch and evaluation. The rest, the
prompted pass and the gradient through it, is the same work. Counted in tokens that pass through the
model, this is what it can give at most. The targets of speed were set without this count: a query
has fewer tokens than a prompted pass, whose way back doubles it, so that training stays below 1.5 ×
for all numbers of epochs. And since the frozen model is all but a little of the memory, one copy of
it is half of two, and what is trained comes on top.

| counted | whole | training | evaluation |
| --- | ---: | ---: | ---: |"""

ABOUT = {
    "digits": """\
Split Digits in five tasks, on the model that comes with cpool (five layers, 128 wide, 16 patches).
The image models of all libraries were checked to give the same query features before each run. In
all of them prompts start around the position of [CLS], and only the classes of a task are trained.
What differs: Avalanche starts the head from larger weights, and holds two copies of the model; both
it and cpool share ten slots among the tasks. *Anchored* has `train.anchor = 8`: eight classes of
logit 0 compete beside the two of a task ([what that gives](studies.md#what-does-an-anchor-give)).
CapyMOA has it without saying so, since it multiplies the logits of the other eight classes by 0
rather than leave them out. It has five slots for each task, and chooses among a task's own in
training; so does *cpool, slots a task, anchored*, which freezes those of earlier tasks.""",
    "vit-tiny": """\
The same images at 224 × 224 on a model of the size of ViT-Ti/16 (12 layers, 192 wide, 196 patches).
Its weights are random, so that times and sizes mean something, and accuracies do not.""",
    "snips": """\
SNIPS in three tasks on SmolLM2-135M-Instruct in float32, a prompt for each task, the task told at
test. Both start from the tokens of the same words. PEFT's prompt learns the words of the right
label; cpool's learns which label of the task is right, from one pass over all labels. At test both
take the likeliest label of the task: with PEFT a row for each label, as its users do.""",
}

DIVIDED = {
    "whole": ("cpu_seconds", "whole"),
    "train": ("cpu_seconds", "train"),
    "evaluate": ("cpu_seconds", "evaluate"),
    "evaluate_afresh": ("cpu_seconds", "evaluate_afresh"),
}


def ratios(found: Mapping[str, Any], peer: str, what: str, over: str | None = None) -> list[float]:
    """Return how a peer compares with the base, one number a round.

    Args:
        found: of a comparison.
        peer: its name.
        what: a key of `DIVIDED` (times as fast as the base), "model" or "peak" (share of the
            base's memory), or "accuracy" (points ahead).
        over: another peer in the place of the base.
    """
    both = (peer, over or found["base"])
    runs, base = ({r["seed"]: r for r in found["peers"][n]["runs"]} for n in both)
    pairs = [(runs[seed], base[seed]) for seed in sorted(runs.keys() & base.keys())]
    if what in DIVIDED:
        part, key = DIVIDED[what]
        return [theirs[part][key] / mine[part][key] for mine, theirs in pairs]
    if what == "accuracy":
        name = "average_accuracy"
        return [100 * (mine[name] - theirs[name]) for mine, theirs in pairs]
    memory = [(mine["memory"][what], theirs["memory"][what]) for mine, theirs in pairs]
    return [mine / theirs for mine, theirs in memory if mine is not None and theirs is not None]


def spread(values: list[float], unit: str = " ×") -> str:
    """Write the median, and the least and the largest.

    >>> spread([1.0, 1.5, 1.21])
    '1.21 × (1.00–1.50)'
    """
    if not values:
        return NONE
    said = f"{statistics.median(values):.2f}{unit}"
    ends = f"{min(values):.2f}", f"{max(values):.2f}"
    return said if ends[0] == ends[1] else f"{said} ({ends[0]}–{ends[1]})"


def times(found: Mapping[str, Any]) -> list[str]:
    """Return the table of accuracies and times of a comparison."""
    heads = ["accuracy", "forgetting", "whole", "training", "evaluation", "afresh", "s"]
    lines = [f"|  | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, peer in found["peers"].items():
        if not peer["runs"]:
            lines.append(f"| {name} | did not run |{' |' * (len(heads) - 1)}")
            continue
        cells = [NONE, NONE]
        if found["accuracy"]:
            cells = [
                text.with_deviation(Stat.of(run[key] for run in peer["runs"]), 100.0, 1)
                for key in ("average_accuracy", "forgetting")
            ]
        cells += [spread(ratios(found, name, what)) for what in DIVIDED]
        whole = statistics.median(run["cpu_seconds"]["whole"] for run in peer["runs"])
        lines.append(f"| {name} | {' | '.join([*cells, text.plain(whole)])} |")
    return lines


def sizes(found: Mapping[str, Any]) -> list[str]:
    """Return the table of memory of a comparison; nothing where no peer ran."""
    heads = ["resident", "run", "model", "model, share", "trained"]
    lines = [f"|  | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, peer in found["peers"].items():
        if not peer["runs"]:
            continue
        memories = [run["memory"] for run in peer["runs"]]
        peaks = [m["peak"] for m in memories if m["peak"] is not None]
        own = [m["peak"] - m["libraries"] for m in memories if m["peak"] is not None]
        cells = [text.size(statistics.median(v)) if v else NONE for v in (peaks, own)]
        cells.append(text.size(statistics.median(m["model"] for m in memories)))
        shares = ratios(found, name, "model")
        cells.append(f"{statistics.median(shares):.3f}" if shares else NONE)
        cells.append(text.count(peer["runs"][-1]["trained_parameters"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def budget(found: Mapping[str, Any]) -> str:
    """Return what all were given, and the versions of all."""
    job, peers = found["job"], found["peers"]
    rounds = max(len(peer["runs"]) for peer in peers.values())
    said = (
        f"{job['tasks']} tasks, {job['train_per_class']} training and {job['test_per_class']} test "
        f"samples a class, {job['epochs']} epochs, batches of {job['batch_size']}, Adam with rate "
        f"{job['lr']:g}; {rounds} rounds."
    )
    versions: dict[str, str] = {}
    for peer in peers.values():
        versions |= {name: version for name, version in peer["versions"].items() if version}
    listed = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    failed = [f"{n} did not run: `{p['error']}`." for n, p in peers.items() if p["error"]]
    return " ".join([said, f"Versions: {listed}.", *failed])


def judged(target: Target, comparisons: Mapping[str, Any]) -> str | None:
    """Return a row of the table of targets; None where it was not measured."""
    found = comparisons.get(target.comparison)
    if found is None or not {target.of, target.over or found["base"]} <= found["peers"].keys():
        return None
    values = ratios(found, target.of, target.what, target.over)
    if not values:
        return None
    middle = statistics.mean(values) if target.what == "accuracy" else statistics.median(values)
    met = middle >= target.bound if target.above else middle <= target.bound
    number = f"{middle:.3f}"
    if target.what == "accuracy":
        number = text.with_deviation(Stat.of(values), 1.0, 1)
    return f"| {target.words} | {number} | {'yes' if met else '**no**'} |"


def bounds() -> list[str]:
    """Return what a cache of queries can give at most in each comparison of images."""
    lines = [BOUNDS]
    without_end = {"epochs": 10**6, "tasks": 10**6}
    for comparison in COMPARISONS:
        if comparison.name in PATCHES:
            patches = PATCHES[comparison.name]
            for more, words in (({}, ""), (without_end, ", epochs and tasks without end")):
                found = counted({**comparison.job, **more}, patches)
                whole = f"{found['whole']:.2f} ×" if not more else NONE
                cells = [f"{found[name]:.2f} ×" for name in ("train", "evaluate")]
                lines.append(f"| {comparison.title}{words} | {whole} | {' | '.join(cells)} |")
    return [*lines, ""]


def published() -> list[str]:
    """Return the table of figures that others published."""
    lines = ["| published, not measured | accuracy % | forgetting | where |"]
    lines.append("| --- | ---: | ---: | --- |")
    for row in PUBLISHED:
        cells = [NONE if n is None else f"{n:.2f}" for n in (row.accuracy, row.forgetting)]
        lines.append(f"| {row.who} | {' | '.join(cells)} | {row.source} |")
    return lines


def content(results: Mapping[str, Any] | None = None) -> str:
    """Return the whole page.

    Args:
        results: content of peers.json; the committed one by default.
    """
    comparisons = (read_json(RESULTS) if results is None else results)["comparisons"]
    lines = [HEAD]
    for comparison in COMPARISONS:
        found = comparisons.get(comparison.name)
        if found is not None:
            lines += [f"## {found['title']}", "", ABOUT[comparison.name], "", *times(found), ""]
            lines += [*sizes(found), "", budget(found), ""]
    rows = [row for target in TARGETS if (row := judged(target, comparisons)) is not None]
    if rows:
        lines += ["## What was aimed at", "", "| target | measured | met |", "| --- | ---: | --- |"]
        lines += [*rows, "", *bounds()]
    lines += ["## What others publish", ""]
    lines += [
        "L2P on Split CIFAR-100 in ten tasks on a pretrained ViT: another stream and another model",
        "than above, so that these figures compare with one another alone.",
        "",
    ]
    lines += published()
    return "\n".join(lines).rstrip() + "\n"
