"""mkdocs hooks: API pages from the package itself, and equations as MathML without a script."""

import ast
import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parent.parent / "cpool"
MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API to the navigation: the front door, then every module and subpackage."""
    pages = [f"api/{name}.md" for name in ("index", *_units())]
    config.nav = [*(config.nav or []), {"API": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make one page a module, so that a new module needs no page written for it."""
    units = _units()
    table = "\n".join(f"| [`cpool.{name}`]({name}.md) | {_first_line(name)} |" for name in units)
    front = f"# API\n\n{_front_door()}\n\n| Module | |\n|---|---|\n{table}\n"
    files.append(File.generated(config, "api/index.md", content=front))
    for name in units:
        modules = _documented(name)
        if modules == [f"cpool.{name}"]:  # the page's title is the module's
            body = f"::: {modules[0]}\n    options:\n      show_root_heading: false"
        else:
            body = "\n\n".join([_first_line(name), *(f"::: {module}" for module in modules)])
        text = f"# cpool.{name}\n\n{body}\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Replace every equation by MathML, which browsers draw by themselves."""
    return MATH.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    tag, bracket, latex = match.groups()
    display = "block" if bracket == "[" else "inline"
    return f'<{tag} class="math">{convert(html.unescape(latex.strip()), display=display)}</{tag}>'


def _units() -> list[str]:
    """Return the public modules and subpackages of cpool."""
    modules = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("[a-z]*/__init__.py")}
    return sorted(modules | packages)


def _documented(unit: str) -> list[str]:
    """Return the public modules of a unit, the one that gives it its name first."""
    if (PACKAGE / f"{unit}.py").is_file():
        return [f"cpool.{unit}"]
    found = []
    for path in sorted((PACKAGE / unit).rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if path.name != "__init__.py" and not any(part.startswith("_") for part in parts):
            found.append(".".join(("cpool", *parts)))
    return found


def _tree(unit: str) -> ast.Module:
    path = PACKAGE / f"{unit}.py"
    path = path if path.is_file() else PACKAGE / unit / "__init__.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(unit: str) -> str:
    return (ast.get_docstring(_tree(unit)) or "").split("\n")[0]


def _front_door() -> str:
    """List what `from cpool import …` gives, each linked to its module."""
    tree = _tree("__init__")
    origin = {
        alias.asname or alias.name: node.module or ""
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    links = [
        f"[`{name}`]({module.split('.')[1]}.md)"
        for name, module in sorted(origin.items())
        if not name.startswith("_")
    ]
    return "`from cpool import …` gives: " + ", ".join(links) + "."
