"""Imports go one way, transformers stays where it belongs, and `import cpool` stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cpool"

# A module may import from layers above its own line, and from itself; modules on one line may
# not import each other. A new module of cpool needs a place here: the highest that fits it.
LAYERS = [
    {"_version", "errors"},
    {"_io", "progress", "seeding"},
    {"blocks", "draws", "drift", "gaussians", "ragged"},
    {"selection", "initialisers", "settings", "device", "processes", "trackers"},
    {"pool", "metrics", "streams", "backbones"},
    {
        "policies",
        "cache",
        "conv_pool",
        "hard_pool",
        "low_rank_pool",
        "momentum_pool",
        "through_pool",
    },
    {"data", "embedding_map", "ready_pool", "transfer"},
    {"branch"},
    {"prompter"},
    {"inject", "routed"},
    {"by_kind", "language"},
    {"readout", "heads"},
    {"ridge", "passes", "rule"},
    {"output", "model_checks"},
    {"run_log"},
    {"network"},
    {"model"},
    {"rules", "exact"},
    {"methods", "meter", "optimise", "checkpoint", "feed", "demands"},
    {"predictor", "resuming"},
    {"learner"},
    {"task_free", "shards"},
    {"report", "explain", "tuning", "distil", "rate_finder", "export"},
    {"interop", "experiment"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(PACKAGE.rglob("*.py"))
# Each is heavy, or comes with an extra: nobody pays for it who does not ask for it.
NOT_AT_IMPORT = [
    "avalanche",
    "continuum",
    "lightning",
    "matplotlib",
    "mlflow",
    "onnxscript",
    "optuna",
    "peft",
    "plotly",
    "ray",
    "torchvision",
    "typer",
    "wandb",
]


def unit(path: Path) -> str:
    """Return the module or subpackage of cpool that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that a file imports, also inside functions.

    What stands under `if TYPE_CHECKING:` never runs, and is left out.
    """
    package = ("cpool", *path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.If)]
    for_types = [n for n in tests if ast.unparse(n.test).endswith("TYPE_CHECKING")]
    skipped = {inner for branch in for_types for n in branch.body for inner in ast.walk(n)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            source = ".".join([*base, *filter(None, [node.module])])
            names = [alias.name for alias in node.names]
            yield from (
                (node.lineno, f"{source}.{name}" if source == "cpool" else source) for name in names
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = unit(path)
    if own == "__init__":
        return  # the front door imports from everywhere; nothing imports from it (below)
    assert own in RANK, f"cpool/{own} has no place yet: add it to LAYERS in {Path(__file__).name}"
    for line, name in imported(path):
        root, *rest = name.split(".")
        if root != "cpool":
            continue
        where = f"{path.relative_to(PACKAGE)}:{line}"
        assert rest, f"{where} imports cpool itself: import from the module that defines the name"
        other = rest[0]
        assert other in RANK, f"{where} imports cpool.{other}, which is not in LAYERS"
        if other != own:
            assert RANK[other] < RANK[own], f"{where}: {own} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_few_import_transformers(path):
    found = [line for line, name in imported(path) if name.split(".")[0] == "transformers"]
    # Of optimisers one stands there alone, Adafactor without scaling.
    allowed = (
        unit(path) in {"backbones", "inject", "optimise"}
        or "interop/transformers" in path.as_posix()
    )
    assert not found or allowed, f"{path.name} lines {found}"


def test_every_layer_entry_exists_at_most_once():
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))


def python(code: str) -> str:
    """Run code in a fresh interpreter, where nothing is imported yet, and return its output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_cpool_is_light():
    loaded = python("import sys, cpool; print(*sys.modules)").split()
    assert not sorted(set(NOT_AT_IMPORT) & set(loaded))


def test_the_core_works_without_the_extras():
    modules = [
        "cpool." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in FILES
        if unit(path) not in {"interop", "__main__", "__init__"} and path.name != "__init__.py"
    ]
    blocked = ["avalanche", "faiss", "gguf", "matplotlib", "peft", "torchvision"]
    python(
        f"import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"for name in {modules!r}: importlib.import_module(name)"
    )


def test_import_cpool_costs_little_more_than_torch():
    clock = "from time import process_time as t; start = t(); import {}; print(t() - start)"
    torch_s = min(float(python(clock.format("torch"))) for _ in range(2))
    cpool_s = min(float(python(clock.format("cpool"))) for _ in range(2))
    assert cpool_s - torch_s <= 2.0, f"import torch {torch_s:.2f} s, import cpool {cpool_s:.2f} s"
