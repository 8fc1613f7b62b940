"""What cpool promises: few names, sorted, importable, documented, and no pickle anywhere."""

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cpool"
FILES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = {"cpool.interop.avalanche": "avalanche", "cpool.interop.peft": "peft"}


def module_name(path: Path) -> str:
    parts = ("cpool", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


MODULES = [module_name(path) for path in FILES]


def rank(name: str) -> tuple[int, str]:
    """Order names as ruff does: CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def load(name: str):
    for prefix, extra in OPTIONAL.items():
        if name.startswith(prefix):
            pytest.importorskip(extra, reason=f"the extra {extra} is not installed")
    return importlib.import_module(name)


def test_the_front_door_has_at_most_25_names():
    names = load("cpool").__all__
    assert len(names) <= 25, f"{len(names)} names: {names}"


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_importable(name):
    if name == "cpool.__main__":
        return
    module = load(name)
    public = not any(part.startswith("_") for part in name.split(".")[1:])
    if public and not name.startswith("cpool.cli"):
        assert hasattr(module, "__all__"), f"{name} has no __all__"
    names = list(getattr(module, "__all__", []))
    assert names == sorted(set(names), key=rank), f"sorted: {sorted(set(names), key=rank)}"
    assert not [n for n in names if not hasattr(module, n)]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_object_says_what_it_is(name):
    if name == "cpool.__main__":
        return
    module = load(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        if callable(value) and getattr(value, "__module__", "").startswith("cpool"):
            assert value.__doc__, f"{name}.{public} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_executes_what_it_loads(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found = {name.split(".")[0] for name in names} & {"cloudpickle", "dill", "joblib", "pickle"}
        assert not found, f"line {node.lineno}: {found}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "torch.save", "eval", "exec"}, (
                f"line {node.lineno}: {called}"
            )
            allowed = not any(
                word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
                for word in node.keywords
            )
            assert allowed, f"line {node.lineno}: allow_pickle"
