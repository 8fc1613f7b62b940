"""What studies of language models say of a label's score, and of a prompt's steps and length."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison import LORA, signed
from benchmarks.study_page import is_clear
from benchmarks.study_results import Table
from cpool.report import text
from cpool.report.results import Stat

__all__ = ["label_scores", "prompt_length", "prompt_steps", "taught_prompt"]

METRIC = "average_accuracy"


def label_scores(document: Mapping[str, Any]) -> list[str]:
    """Return what validation data say of the sum and the mean of a label's log-probabilities.

    Args:
        document: of the study `label_scores`, with x "sum" and "mean".
    """
    table = Table(document)
    gaps = {
        (panel, name): gap
        for panel in table.panels
        for name in table.series(panel)
        if (gap := _gap(table, panel, name, ("sum", "mean"))) is not None
    }
    ahead = [key for key, gap in gaps.items() if gap.mean > 0]
    average = Stat.of(gap.mean for gap in gaps.values())
    assert average is not None
    by = signed(average).partition(" ±")[0]
    said = (
        "The score of a label may be the sum of its tokens' log-probabilities or their mean. On "
        f"validation data the sum is ahead in {len(ahead)} of {len(gaps)} rows, by {by} points on "
        "average. All rows of this page and of the language benchmarks use the sum"
    )
    said += ", chosen so." if average.mean >= 0 else ", for which these data do not speak."
    return [said, "", *_rows(table, ("sum", "mean"), gaps, "the sum ahead by")]


def prompt_steps(document: Mapping[str, Any]) -> list[str]:
    """Return how far prompts are behind LoRA after few steps and after many.

    Args:
        document: of the study `prompt_steps`, with a row `lora`.
    """
    table = Table(document)
    (panel,) = table.panels
    xs = table.xs(panel)
    prompts = [name for name in table.series(panel) if name != LORA]
    cells = []
    for x in xs:
        means = {n: s.mean for n in prompts if (s := table.stat(panel, n, x, METRIC)) is not None}
        best = max(means, key=lambda name: means[name])
        ours, theirs = (table.values(panel, name, x, METRIC) for name in (best, LORA))
        gap = Stat.of(ours[seed] - theirs[seed] for seed in ours if seed in theirs)
        cells.append("–" if gap is None else f"{signed(gap).removesuffix(' points')} (`{best}`)")
    return [*prompt_length(document), f"| best prompt, ahead of LoRA | {' | '.join(cells)} | |"]


def prompt_length(document: Mapping[str, Any]) -> list[str]:
    """Return accuracy by row and x, and what a row gains from the first x to the last.

    Args:
        document: of a study with one panel, such as `prompt_length`.
    """
    table = Table(document)
    (panel,) = table.panels
    xs = table.xs(panel)
    gaps = {
        (panel, name): gap
        for name in table.series(panel)
        if (gap := _gap(table, panel, name, (xs[-1], xs[0]))) is not None
    }
    lines = _rows(table, xs, gaps, "gained")
    lines[0] = f"| {document['x']} |{lines[0].removeprefix('| |')}"
    return [document["question"].strip(), "", *(x for x in lines if not x.startswith("| *"))]


def taught_prompt(measured: Mapping[str, Any]) -> list[str]:
    """Return what a prompt reaches on labels, and on the answers of LoRA.

    Args:
        measured: by `benchmarks.taught_prompt`.
    """
    rows, settings = measured["rows"], measured["settings"]
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row["way"], {})[row["seed"]] = 100 * row["accuracy"]
    lines = [
        "On the ten domains of CLINC150, LoRA as a teacher: it learns the labels of "
        f"{settings['labelled']} queries a domain, and a prompt learns what LoRA then "
        f"answers, to the same queries or to {settings['unlabelled']} a domain whose labels nobody "
        f"reads; {settings['steps']} steps each. Does it come nearer to LoRA? Made by `python -m "
        "benchmarks.taught_prompt`, in float32.",
        "",
        "| learned from | accuracy, % | ahead of labels | ahead of LoRA |",
        "| --- | ---: | ---: | ---: |",
    ]
    for way, values in found.items():
        name = "`lora`, labels" if way == LORA else f"prompt, {way}"
        cells = [text.with_deviation(Stat.of(values.values()), 1.0, 1)]
        for other in ("labels", LORA):
            gap = Stat.of(values[s] - found[other][s] for s in values if s in found[other])
            same = gap is None or way == other or (way == LORA and other == "labels")
            cells.append("" if same else signed(gap).removesuffix(" points"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    told = [way for way in found if way not in (LORA, "labels")]
    gaps = {w: Stat.of(v - found["labels"][s] for s, v in found[w].items()) for w in told}
    apart = [way for way, gap in gaps.items() if gap is not None and is_clear(gap)]
    said = f"Clearly apart from labels: {', '.join(apart)}." if apart else "None is clearly apart "
    return [*lines, "", said if apart else f"{said}from what labels alone give."]


def _gap(table: Table, panel: str, name: str, xs: Sequence[Any]) -> Stat | None:
    """Return how far the first x is ahead of the second, seed by seed."""
    first, second = (table.values(panel, name, x, METRIC) for x in xs)
    return Stat.of(first[seed] - second[seed] for seed in first if seed in second)


def _rows(
    table: Table, xs: Sequence[Any], gaps: Mapping[tuple[str, str], Stat], heading: str
) -> list[str]:
    lines = [f"| | {' | '.join(map(str, xs))} | {heading} |", f"| --- |{' ---: |' * (len(xs) + 1)}"]
    for panel in table.panels:
        lines.append(f"| *{panel}* |{' |' * (len(xs) + 1)}")
        for name in table.series(panel):
            cells = [text.with_deviation(table.stat(panel, name, x, METRIC), 1.0, 1) for x in xs]
            gap = gaps.get((panel, name))
            cells.append("–" if gap is None else signed(gap).removesuffix(" points"))
            lines.append(f"| `{name}` | {' | '.join(cells)} |".replace(text.MISSING, "–"))
    return lines
