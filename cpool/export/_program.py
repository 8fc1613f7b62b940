"""From a module to a program file, and the JSON beside it."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cpool._io import sha256_of_bytes, write_bytes, write_json
from cpool._version import __version__
from cpool.errors import ConfigError, need_extra

__all__ = ["Format", "checked_path", "write_program"]

Format: TypeAlias = Literal["torch", "onnx"]

SUFFIXES: dict[str, str] = {"torch": ".pt2", "onnx": ".onnx"}
LARGEST = 2**31 - 2**20  # of an ONNX file in one piece: protobuf counts bytes in 31 bits


def checked_path(path: str | Path, form: str) -> Path:
    """Return where a program goes, with the suffix of its format.

    Raises:
        ConfigError: another format, or the suffix of another one.
        MissingDependencyError: ONNX without its packages.
    """
    if form not in SUFFIXES:
        raise ConfigError(
            expected='format "torch" or "onnx"', got=repr(form), remedy="Choose one of the two."
        )
    path, suffix = Path(path), SUFFIXES[form]
    if path.suffix != suffix and path.suffix in SUFFIXES.values():
        raise ConfigError(
            expected=f"a file {suffix}, or no suffix, for format {form!r}",
            got=str(path),
            remedy="Change the name or the format.",
        )
    if form == "onnx":
        need_extra("onnx", "onnx", "onnxscript")
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def write_program(
    module: nn.Module,
    example: Mapping[str, Tensor],
    free: Mapping[str, Mapping[int, torch.export.Dim]],
    outputs: Sequence[str],
    path: Path,
    form: Format,
    about: Mapping[str, Any],
) -> Path:
    """Trace a module, write the program, and a JSON beside it; return the path of the program.

    Args:
        module: takes the example's tensors by name.
        example: of at least 2 rows; only its shapes and types leave a trace.
        free: input → axis → what may differ from the example.
        outputs: names of what the module returns, in order.
        path: from `checked_path`.
        form: "torch" or "onnx".
        about: what the JSON says beside names, sizes and versions.
    """
    module.eval()
    shapes = {name: dict(axes) for name, axes in free.items()}
    with torch.no_grad():
        program = torch.export.export(
            module, (), kwargs=dict(example), dynamic_shapes=shapes, strict=False
        )
    data = _onnx(program, example, outputs, path) if form == "onnx" else _torch(program)
    if data is not None:
        write_bytes(path, data)
    described = {
        name: {
            "type": str(tensor.dtype).removeprefix("torch."),
            "shape": [
                free[name][i].__name__ if i in free[name] else n for i, n in enumerate(tensor.shape)
            ],
        }
        for name, tensor in example.items()
    }
    write_json(
        path.with_name(path.name + ".json"),
        {
            **about,
            "file": path.name,
            "format": form,
            "inputs": described,
            "outputs": list(outputs),
            "sha256": None if data is None else sha256_of_bytes(data),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cpool": __version__,
            "torch": torch.__version__,
        },
    )
    return path


def _torch(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(
    program: torch.export.ExportedProgram,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
) -> bytes | None:
    """Return the file; None where it is too large for one, and was written with a second."""
    made = torch.onnx.export(
        program,
        kwargs=dict(example),
        input_names=list(example),
        output_names=list(outputs),
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size > LARGEST:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path, external_data=True)
        return None
    data: bytes = made.model_proto.SerializeToString()
    return data
