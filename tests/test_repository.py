"""The tree as a whole: one version, small files, no traces of the machine it was written on."""

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "constraints.txt",
    "cpool",
    "docs",
    "pyproject.toml",
    "tests",
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|root|home/\w+|opt/(?:wheels|pypi))(?:/|\b)")
REGISTRY = re.compile(r"pythonhosted\.org|pypi\.org|registry\.npmjs|deb\.debian\.org")


@pytest.fixture(scope="module")
def files(root) -> list[Path]:
    """The files of the repository: those that git would commit, or all when git is not there."""
    command = [
        "git",
        "-C",
        str(root),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        folders = [root / name for name in sorted(TOP_LEVEL)]
        found = [file for folder in folders for file in (folder, *folder.rglob("*"))]
        found = [file for file in found if "__pycache__" not in file.parts]
    else:
        found = [root / name for name in listed.split("\0") if name]
    return [file for file in found if file.is_file()]


def text(path: Path) -> str:
    """Return the text of a file, or nothing when it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_the_top_level_is_fixed(root, files):
    assert {file.relative_to(root).parts[0] for file in files} <= TOP_LEVEL


def test_no_traces_of_one_machine(root, files):
    found = [
        f"{file.relative_to(root)}: {match.group()}"
        for file in files
        if file.stat().st_size < 2_000_000
        for pattern in (MACHINE_PATH, REGISTRY)
        for match in pattern.finditer(text(file))
    ]
    assert not found


def test_files_are_small(root, files):
    assets, results = root / "cpool" / "assets", root / "benchmarks" / "results"
    large = [
        file
        for file in files
        # Fifty tasks, 34 rows and three seeds are 102 matrices of 50 × 50.
        if file.stat().st_size > (2_000_000 if results in file.parents else 1_000_000)
        and assets not in file.parents
    ]
    assert not large
    assert sum(f.stat().st_size for f in files if assets in f.parents) <= 5_000_000


def test_the_version_is_one(root):
    import cpool

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    newest = re.search(r"^## (\S+)", text(root / "CHANGELOG.md"), flags=re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == cpool.__version__


def test_the_installed_version_is_the_one_of_the_tree(root):
    from importlib import metadata

    import cpool

    try:
        installed = metadata.version("continual-prompt-pool")
    except metadata.PackageNotFoundError:
        pytest.fail("cpool is not installed here: make setup")
    assert installed == cpool.__version__


def test_torch_and_torchvision_are_the_matched_pair(root):
    pins = text(root / "constraints.txt").split()
    assert pins == ["torch==2.14.1", "torchvision==0.29.1"]


def test_the_core_needs_no_extra(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert not core & {"avalanche-lib", "gguf", "matplotlib", "peft", "torchvision"}


def test_golden_files_are_as_they_were_measured(golden):
    lines = text(golden / "sha256sums.txt").splitlines()
    sums = dict(reversed(line.split(maxsplit=1)) for line in lines)
    for name, expected in sums.items():
        assert hashlib.sha256((golden / name).read_bytes()).hexdigest() == expected, name
    present = {f"./{f.relative_to(golden)}" for f in golden.rglob("*") if f.is_file()}
    assert present == {*sums, "./sha256sums.txt"}
