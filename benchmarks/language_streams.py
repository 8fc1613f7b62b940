"""What language models forget when tasks come one after another, as the committed streams say."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from cpool.report import load_results, text
from cpool.report.results import Stat

__all__ = ["STREAMS", "leaders", "stream_notes", "stream_rows", "stream_section"]

# Each group is a table; the streams of one, by heading.
STREAMS = (
    {"task not known": "language-stream", "task known": "language-stream-task"},
    {"on SNIPS": "language-stream-intents", "on CLINC150": "language-stream-domains"},
)
SPREAD = "Three seeds, mean ± sample deviation; forgetting in points."


def stream_section(results: Path) -> list[str]:
    """Return the section of the page, with a table for each group that has results.

    Args:
        results: benchmarks/results.
    """
    lines: list[str] = []
    for group in STREAMS:
        found = {
            heading: load_results(results / name)
            for heading, name in group.items()
            if (results / name / "results.json").is_file()
        }
        if not found:
            continue
        said = list(dict.fromkeys(document["description"] for document in found.values()))
        if group is STREAMS[0]:
            said = said[:1]  # the second differs in the task being known alone
        lines += [" ".join([*(f"{sentence.rstrip('.')}." for sentence in said), SPREAD]), ""]
        lines += [*stream_rows(found), "", *stream_notes(found)]
    return ["## When tasks come one after another", "", *lines] if lines else []


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


def stream_notes(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the streams' table may take amiss."""
    labels = {run["label"] for results in documents.values() for run in results["runs"]}
    lines = []
    if {"progressive_prompts", "progressive_prompt_tuning"} <= labels:
        lines += [
            "`progressive_prompts` puts a linear head behind its prompts; "
            "`progressive_prompt_tuning` answers with the words of the labels.",
        ]
    lines += leaders(documents)
    for heading, results in documents.items():
        one, own = (
            Stat.of(run["average_accuracy"] for run in results["runs"] if run["label"] == label)
            for label in ("joint prompt_tuning", "prompt_tuning")
        )
        if one and own and one.mean < own.mean:
            lines += [
                f"{_where(heading)}, one prompt for all classes at once "
                "(`joint prompt_tuning`) is behind a prompt a task: it is no upper bound here.",
            ]
    return [" ".join(lines), ""] if lines else []


def leaders(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which row leads each stream, upper bounds left out."""
    lines = []
    for heading, results in documents.items():
        runs: dict[str, list[float]] = {}
        for run in results["runs"]:
            if not run["joint"]:
                runs.setdefault(run["label"], []).append(100 * run["average_accuracy"])
        prompts = {run["label"] for run in results["runs"] if run["prompts"]}
        order = sorted(runs, key=lambda label: -mean(runs[label]))
        said = f"{_where(heading)}, {_percent(order[0], ' leads with', runs)}"
        soft = next((label for label in order if label in prompts), None)
        if soft not in (None, order[0]):
            said += f", and the best prompt, {_percent(soft, ', has', runs)}"
        lines.append(f"{said}.")
    return lines


def _where(heading: str) -> str:
    return f"O{heading[1:]}" if heading.startswith("on ") else f"With the {heading}"


def _percent(label: str, verb: str, runs: Mapping[str, list[float]]) -> str:
    return f"`{label}`{verb} {text.with_deviation(Stat.of(runs[label]), 1.0, 1)} %"
