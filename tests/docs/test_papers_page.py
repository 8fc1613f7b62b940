"""The page on the order of the papers says what the committed results say."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from cpool.report.results import Stat, rows_of
from cpool.report.text import with_deviation

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pages" / "papers.md").read_text(encoding="utf-8")
STREAMS = ("banking77", "clinc150-15", "digits", "fashion-mnist", "omniglot50")
LABELS = {
    "L2P": "l2p",
    "DualPrompt": "dualprompt",
    "CODA-Prompt": "coda_prompt",
    "S-Prompts": "sprompts",
    "HiDe-Prompt": "hide_prompt",
    "nearest class mean": "ncm",
    "ridge regression": "ridge",
    "RanPAC": "ranpac",
}
ORDER = ("l2p", "dualprompt", "coda_prompt")
CLOSED = ("ncm", "ridge", "ranpac")
OTHERS = [
    "progressive_prompts",
    "oneprompt",
    "ovor",
    "convprompt",
    "osprompt",
    "mvp",
    "sapt",
    "mocl",
]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Stat]]:
    """Accuracy in percent by stream and row."""
    made = {}
    for name in STREAMS:
        path = ROOT / "benchmarks" / "results" / name / "results.json"
        rows = rows_of(json.loads(path.read_text(encoding="utf-8")))
        stats = {row.label: row.stat("average_accuracy") for row in rows}
        made[name] = {
            label: Stat(100 * stat.mean, 100 * (stat.deviation or 0.0), stat.n)
            for label, stat in stats.items()
            if stat is not None
        }
    return made


def ahead(found: dict[str, dict[str, Stat]], one: str, other: str) -> set[str]:
    return {name for name, rows in found.items() if rows[one].mean > rows[other].mean}


def test_the_table_is_made_of_the_results(found) -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(LABELS)
    for line, (shown, label) in zip(lines[2:], LABELS.items(), strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        stats = [found[name][label] for name in STREAMS]
        assert cells == [shown, *(with_deviation(stat, 1.0) for stat in stats)]


def test_what_is_said_of_cifar() -> None:
    path = ROOT / "benchmarks" / "results" / "cifar100-small" / "results.json"
    rows = rows_of(json.loads(path.read_text(encoding="utf-8")))
    shown = {row.label: with_deviation(row.stat("average_accuracy"), 100.0) for row in rows}
    part = " ".join(PAGE[PAGE.index("On [CIFAR-100-small]") :].split("\n\n")[0].split())
    for said, label in (
        ("L2P has", "l2p"),
        ("DualPrompt", "dualprompt"),
        ("CODA-Prompt", "coda_prompt"),
        ("The class means have", "ncm"),
        ("HiDe-Prompt", "hide_prompt"),
        ("ridge regression", "ridge"),
    ):
        assert f"{said} {shown[label]}" in part, label


def test_the_papers_order_is_on_no_stream_and_the_closed_forms_are_ahead(found) -> None:
    for name, rows in found.items():
        means = [rows[label].mean for label in ORDER]
        assert means != sorted(means), name
        apart = max(abs(a - b) for a, b in combinations(means, 2))
        assert (1 <= apart <= 6) is (name != "omniglot50"), name
        lowest = min(rows[label].mean for label in CLOSED)
        assert lowest > max(rows[label].mean for label in (*ORDER, *OTHERS)), name
    least = [min(r[c].mean for c in CLOSED) - max(r[o].mean for o in ORDER) for r in found.values()]
    assert sum(gain >= 10 for gain in least) == 4


def test_what_is_said_of_hide_prompt_and_s_prompts(found) -> None:
    assert ahead(found, "hide_prompt", "ncm") == {*STREAMS}
    assert ahead(found, "hide_prompt", "ridge") == {*STREAMS} - {"digits"}
    assert ahead(found, "hide_prompt", "ranpac") == {"clinc150-15"}
    clinc = found["clinc150-15"]
    assert clinc["hide_prompt"].mean - clinc["ranpac"].mean > clinc["hide_prompt"].deviation
    assert ahead(found, "sprompts", "ncm") == {"digits", "fashion-mnist"}
    assert ahead(found, "sprompts", "ridge") == ahead(found, "sprompts", "ranpac") == set()


def test_what_is_said_of_si_blurry() -> None:
    path = ROOT / "benchmarks" / "results" / "si-blurry-digits" / "results.json"
    rows = {row.label: row for row in rows_of(json.loads(path.read_text(encoding="utf-8")))}
    part = " ".join(PAGE[PAGE.index("- **So it is in the setting") :].split("\n- **")[0].split())
    stats = {label: row.stat("average_accuracy") for label, row in rows.items()}
    for said in (
        f"has {with_deviation(stats['mvp'], 100.0)}. L2P",
        f"has {with_deviation(stats['l2p'], 100.0)} with the mask",
        f"as MVP is {with_deviation(stats['l2p all seen'], 100.0)}: behind it",
        f"The linear head has {with_deviation(stats['linear_head all seen'], 100.0)} then",
        f"no mask, {with_deviation(stats['ridge'], 100.0)}.",
    ):
        assert said in part
    assert stats["l2p all seen"].mean < stats["mvp"].mean < stats["l2p"].mean
