"""Make the page of hard prompts, soft prompts and fine-tuning from the committed results.

python -m benchmarks.hard_vs_soft_page            writes docs/pages/hard-and-soft.md and its picture
python -m benchmarks.hard_vs_soft_page --check    writes nothing; status 1 when out of date
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.comparison import (
    FULL,
    HARD,
    KINDS,
    LORA,
    SOFT,
    WATTS,
    Comparison,
    kind_of,
    signed,
)
from benchmarks.language_choices import (
    label_scores,
    prompt_length,
    prompt_steps,
    taught_prompt,
)
from benchmarks.language_streams import stream_section
from benchmarks.limits import few_pairs
from benchmarks.panel_cost_table import cost_pictures, cost_section
from benchmarks.study_plot import plot_svg
from benchmarks.study_results import Table
from benchmarks.tables import RESULTS, ROOT
from cpool._io import read_json, write_bytes
from cpool.experiment.reading import read_experiment
from cpool.report import load_results, text
from cpool.report.results import Stat

PAGE = ROOT / "docs" / "pages" / "hard-and-soft.md"
PLOT = ROOT / "docs" / "pages" / "assets" / "hard-and-soft-cost.svg"
EXAMPLES = PLOT.with_name("hard-and-soft-examples.svg")
MAIN, STUDY, WORDS = "hard-vs-soft", "hard_vs_soft", "hard_prompts"
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
each. One task leaves nothing to forget:
[tasks one after another](#when-tasks-come-one-after-another) have a table of their own.

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
Rows that take at least a second. **s**: of one core; those of prompt tuning were measured when a
step still ran the prompt in each row. **energy**: an estimate, these seconds times {watts:g} W,
about what a busy core of a server draws; nothing was metered. **TFLOP**: operations of all training
steps, counted by torch in one of them, which runs the prompt once for its four rows. **step**: its
time as a share of full fine-tuning's, in turns in one process; full fine-tuning and LoRA run in
float32, which is fast on some CPUs where bfloat16 is not. **memory**: the peak of a process that
trains with four queries a step, without what the libraries take. The last three are from
`python benchmarks/speed/tuning.py`.
"""


def grouped(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study whose series are kinds of rows: the best row of each, at each x.

    Args:
        document: of the study, with the panels that are done.
    """
    table, metric = Table(document), "average_accuracy"
    methods = methods_of(document)
    kinds = {
        "best hard prompt": [x for x in methods if kind_of(methods[x]) == HARD],
        "best prompt tuning": [x for x in methods if methods[x] == SOFT],
        "prefix tuning": [x for x in methods if methods[x] == "prefix_tuning"],
        "LoRA": [x for x in methods if methods[x] == LORA],
        "fine-tuning": [x for x in methods if methods[x] == FULL],
        "best head": [x for x in methods if kind_of(methods[x]) == "heads on frozen features"],
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


def joined(document: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with the points of another one of the same data, for panels that both have.

    Raises:
        SystemExit: a panel of both is of other data, another model or other seeds.
    """
    panels = [panel for panel in document["streams"] if panel in words["streams"]]
    for panel in panels:
        if document["streams"][panel] != words["streams"][panel]:
            raise SystemExit(f"{panel} is of other data in the study {words['name']}")
    if document["seeds"] != words["seeds"]:
        raise SystemExit(f"the study {words['name']} has other seeds")
    more = [point for point in words["points"] if point["panel"] in panels]
    return {**document, "points": [*document["points"], *more]}


def methods_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the method of each row of a study by its label.

    A row that its points have and its settings lack was measured apart: its label begins with the
    name of its method.
    """
    rows = document["settings"]["experiment"]["method"]
    methods = {row.get("label", row["name"]): row["name"] for row in rows}
    known = [name for names in KINDS.values() for name in names]
    for label in dict.fromkeys(point["series"] for point in document["points"]):
        name = next((name for name in known if label.split(" ")[0] == name), None)
        if name is not None:
            methods.setdefault(label, name)
    return methods


def left_out(made: Comparison, document: Mapping[str, Any]) -> list[str]:
    """Say which hard prompts the study lacks, and whether one of them is better than its best.

    Args:
        made: the comparison with one number of examples, which has more rows.
        document: of the study.
    """
    lacking = [label for label in made.of_kind(HARD) if label not in methods_of(document)]
    if not lacking:
        return []
    study = Table(grouped(document))
    panel, x = study.panels[0], made.results["stream"]["options"]["train_per_class"]
    best, column = made.best(lacking), study.stat(panel, "best hard prompt", x, "average_accuracy")
    names = ", ".join(f"`{label}`" for label in lacking)
    said = f"The column of hard prompts is without {names} of the first table, not yet run here."
    if column is not None and made.accuracy(best).mean > column.mean:
        said += (
            f" With {x} queries on {panel.split(',')[0]} `{best}` had "
            f"{text.with_deviation(made.accuracy(best), 1.0, 1)} there, where the column has "
            f"{text.with_deviation(column, 1.0, 1)}: hard prompts can do better than it shows."
        )
    return [said, ""]


def significance(made: Comparison) -> list[str]:
    """Say that the test of the benchmark page parts nothing, where its pairs are too few for it."""
    seeds = {run["seed"] for runs in made.runs.values() for run in runs}
    said = few_pairs(len(seeds) * made.results["stream"]["tasks"], len(made.runs) - 1)
    if said is None:
        return []
    return [f"The [benchmark page](benchmarks.md#{MAIN}) marks all rows as alike. {said}", ""]


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


AIMS = {"best hard prompt": 0.0, "LoRA": -3.0}  # how far a prompt may be from it, in points


def aims(document: Mapping[str, Any]) -> list[str]:
    """Return how far the best prompt tuning of a grouped study is from hard prompts and LoRA.

    Bold: below the aim, which is to be not behind hard prompts and within 3 points of LoRA.
    Differences are taken seed by seed.
    """
    table, ours, metric = Table(document), "best prompt tuning", "average_accuracy"
    lines = [
        f"| {document['x']} | ahead of the best hard prompt | ahead of LoRA |",
        "| --- | ---: | ---: |",
    ]
    for panel in table.panels:
        lines.append(f"| *{panel}* | | |")
        for x in table.xs(panel):
            cells = []
            for other, least in AIMS.items():
                soft, them = (table.values(panel, row, x, metric) for row in (ours, other))
                stat = Stat.of(soft[seed] - them[seed] for seed in soft if seed in them)
                said = "–" if stat is None else signed(stat).removesuffix(" points")
                cells.append(
                    f"**{said}**" if stat is not None and stat.mean < least - 1e-9 else said
                )
            lines.append(f"| {x} | {' | '.join(cells)} |")
    return lines


def took(results: Path) -> list[str]:
    """Return how long the measurements took."""
    seconds = read_json(results / MAIN / "environment.json")["seconds"]
    lines = [f"That took {seconds / 60:.0f} minutes on two cores, its search included."]
    studies = [results / "studies" / f"{name}.json" for name in (STUDY, WORDS)]
    if all(file.is_file() for file in studies):
        hours = sum(read_json(file)["seconds"] for file in studies) / 3600
        lines += [f"[Other numbers of examples](#from-how-many-examples-on) took {hours:.0f} hours"]
        lines += ["of one core, beside other work."]
    return [" ".join(lines), ""]


CHOICES = (
    ("prompt_steps", "How many steps a prompt needs", prompt_steps),
    ("prompt_length", "How long a prompt should be", prompt_length),
    ("label_scores", "The score of a label", label_scores),
)


def outputs(results: Path = RESULTS) -> dict[Path, str]:
    """Return what the page and its picture must hold."""
    experiment = read_experiment(ROOT / "benchmarks" / "experiments" / f"{MAIN}.toml")
    grids = [(e.label, next(iter(e.grid.values()))) for e in experiment.methods if e.grid]
    made = Comparison(
        load_results(results / MAIN),
        read_json(results / "speed-tuning.json"),
        grids,
    )
    pictures = {PLOT: made.plot()}
    lines = [HEAD, *took(results), *made.table(), "", COLUMNS.format(size=f"{made.parameters:,}")]
    lines += [
        *made.found(),
        "",
        *significance(made),
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
        whole, words = read_json(study), study.with_name(f"{WORDS}.json")
        if words.is_file():
            whole = joined(whole, read_json(words))
        document = grouped(whole)
        pictures[EXAMPLES] = plot_svg(document)
        lines += ["## From how many examples on", "", document["question"], ""]
        lines += [
            "Where a kind has several rows, the best at each number is shown, chosen after the "
            "fact on test queries; [the study](studies.md) has each row.",
            "",
        ]
        lines += left_out(made, whole)
        lines += [*by_examples(document), ""]
        lines += ['<div class="flow">', f'--8<-- "{EXAMPLES.name}"', "</div>", ""]
        lines += [
            "The same aims as above for the best prompt tuning here, in points; in bold what is "
            "behind hard prompts, or more than 3 behind LoRA:",
            "",
            *aims(document),
            "",
        ]
        drawn = cost_pictures(results, whole, methods_of(whole))
        lines += cost_section(results, whole, methods_of(whole), drawn)
        pictures |= {PLOT.with_name(name): picture for name, picture in drawn.items()}
    for name, heading, section in CHOICES:
        if (file := results / "studies" / f"{name}.json").is_file():
            lines += [f"## {heading}", "", *section(read_json(file)), ""]
    if (file := results / "taught-prompt.json").is_file():
        lines += ["## Taught by LoRA", "", *taught_prompt(read_json(file)), ""]
    lines += stream_section(results)
    return {PAGE: "\n".join(lines).rstrip() + "\n", **pictures}


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
