"""The tables, in the terminal and as Markdown."""

import copy
from typing import Any

import pytest
from rich.console import Console

from cpool.report import results_markdown, results_table


def rendered(results: Any, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(results_table(results, width=width))
    return [line.rstrip() for line in capture.get().splitlines()]


def line_of(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line


def test_a_hundred_columns_hold_everything(results: dict[str, Any]) -> None:
    lines = rendered(results, 100)
    assert max(map(len, lines)) <= 100
    heads = "method accuracy % incr. % forgetting trained per task train s ms/sample"
    assert " ".join(lines[1].split()) == heads
    assert "…" not in "".join(lines)
    assert "★" in line_of(lines, "RanPAC")
    assert line_of(lines, "NCM").split()[1:4] == ["85.66", "±", "0.56"]
    assert line_of(lines, "Joint").split().count("—") == 4
    assert "Best: RanPAC, a baseline without prompts." in lines


@pytest.mark.parametrize("width", [36, 46, 60, 70, 80, 95, 120])
def test_no_width_cuts_a_number(results: dict[str, Any], width: int) -> None:
    lines = rendered(results, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert "★ 92.30 ± 0.13" in line_of(lines, "RanPAC")
    if width < 95:
        assert "Left out for want of width" in " ".join(lines)


@pytest.mark.parametrize("width", [80, 100])
def test_several_runs_get_a_column_and_a_warning(results: dict[str, Any], width: int) -> None:
    other = copy.deepcopy(results)
    other["name"], other["stream"]["fingerprint"] = "other", "e" * 64
    lines = rendered([results, other], width)
    assert lines[1].split()[:2] == ["run", "method"]
    assert "…" not in "".join(lines)
    assert sum("★" in line for line in lines) == 3  # one each, and the caption
    assert any("Warning: the stream differs" in line for line in lines)
    assert not any("Warning" in line for line in rendered([results, results], width))


def test_labels_are_no_markup(results: dict[str, Any]) -> None:
    results["runs"] = [{"label": "[bold]a|b", "method": "l2p", "average_accuracy": 0.5}]
    assert any("[bold]a|b" in line for line in rendered(results, 100))
    assert "| **[bold]a\\|b** |" in results_markdown(results)


def test_incomplete_and_validation_runs_say_so(results: dict[str, Any]) -> None:
    results |= {"complete": False, "evaluated_on": "validation"}
    text = " ".join(rendered(results, 100))
    assert "split_digits is not complete" in text
    assert "measured on validation data" in text
    assert "validation data" in results_markdown(results)


def test_markdown_has_the_same_numbers(results: dict[str, Any]) -> None:
    lines = results_markdown(results).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 9
    assert lines[2].startswith("| **RanPAC** | **★ 92.30 ± 0.13** | **94.24** |")
    assert lines[9].startswith("| Joint (upper bound) | 96.96 ± 0.05 | — | — |")
    assert lines[-1] == "Best: RanPAC, a baseline without prompts."


def test_one_seed_has_no_deviation(results: dict[str, Any]) -> None:
    results["runs"] = results["runs"][:1]
    assert "±" not in "".join(rendered(results, 100))
