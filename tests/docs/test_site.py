"""The site stands on its own, and names every method."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cpool.methods import METHODS

pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra dev)")

# What a browser would fetch by itself: not the links that a person may follow.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\s\"'>]+"
)
IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\s\"')]+")


@pytest.fixture(scope="module")
def site(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-s", "-f", "docs/mkdocs.yml"]
    done = subprocess.run(
        [*command, "-d", folder], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_asks_another_host_for_anything(site):
    found = [
        f"{path.relative_to(site)}: {match.group()}"
        for suffix, pattern in ((".html", FETCHED), (".css", IMPORTED))
        for path in site.rglob(f"*{suffix}")
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_equations_are_mathml(site):
    page = (site / "metrics.html").read_text(encoding="utf-8")
    assert page.count("<math") >= 8
    assert "arithmatex" not in page


def test_doctests_are_shown_as_code(site):
    page = (site / "api" / "metrics.html").read_text(encoding="utf-8")
    assert "&gt;&gt;&gt; " not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_on_the_page_of_methods(root, name):
    assert f"`{name}`" in (root / "docs" / "pages" / "methods.md").read_text(encoding="utf-8")
