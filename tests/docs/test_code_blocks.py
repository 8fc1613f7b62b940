"""Every Python block of the docs and the README runs; the blocks of a page share their names."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md")) + sorted(ROOT.glob("README.md"))
FENCE = re.compile(r"^ *```(\S*)[ \t]*(.*?)$\n(.*?)^ *```[ \t]*$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """Return first line, words after `python`, and source of every Python block."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(3)) + 1, match[2].strip(), match[3])
        for match in FENCE.finditer(text)
        if match[1] in {"python", "py", "python3"}
    ]


def run(page: Path, namespace: dict[str, object]) -> int:
    """Run the blocks of a page in order, except those that need a hub; return how many ran."""
    count = 0
    for line, words, source in blocks(page):
        if words != "hub":
            # Empty lines in front: a traceback then shows the line of the page.
            exec(compile("\n" * (line - 1) + source, str(page), "exec"), namespace)
            count += 1
    return count


@pytest.mark.filterwarnings("ignore::DeprecationWarning:avalanche.*")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("docs_page")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ran = run(page, vars(module))
    assert ran == len([words for _, words, _ in blocks(page) if words != "hub"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_only_what_needs_a_hub_is_left_out(page):
    assert {words for _, words, _ in blocks(page)} <= {"", "hub"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_finished(page):
    unfinished = re.findall(r"\b(?:TODO|FIXME|TBD|XXX)\b", page.read_text(encoding="utf-8"))
    assert not unfinished
