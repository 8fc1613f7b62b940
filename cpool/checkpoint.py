"""Checkpoints: one safetensors file a block, a manifest written last, everything atomic.

File names end in a piece of their SHA-256, so a file is never overwritten by another content:
what is frozen is written once, and a process killed at any moment leaves the old manifest with
all the files that it names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from cpool._io import (
    read_json,
    sha256_of_bytes,
    sha256_of_tensors,
    write_bytes,
    write_json,
)
from cpool._version import __version__
from cpool.backbones.fingerprint import plain_state
from cpool.errors import CheckpointError
from cpool.model import PromptedModel
from cpool.readout import CompletionReadout, LabelReadout

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "describe_method",
    "load_state",
    "read_file",
    "read_manifest",
    "save_state",
]

MANIFEST = "manifest.json"
SCHEMA = 1


def save_state(model: PromptedModel, folder: Path | str, extra: Mapping[str, Any]) -> Path:
    """Write the model's state and `extra` (JSON) to `folder`; write only files that are new.

    Returns:
        The path of the manifest.

    Raises:
        CheckpointError: the folder cannot be written; the old checkpoint is still whole.
    """
    folder = Path(folder)
    old = _files_of(folder)
    files: dict[str, dict[str, Any]] = {}
    for part, tensors in _parts(model).items():
        data = save_bytes(tensors)
        digest = sha256_of_bytes(data)
        name = f"{part}-{digest[:12]}.safetensors"
        if not (folder / name).is_file() or (folder / name).stat().st_size != len(data):
            write_bytes(folder / name, data)
        files[name] = {"part": part, "sha256": digest, "bytes": len(data)}
    manifest = {
        "schema": SCHEMA,
        "cpool": __version__,
        "method": model.method and describe_method(model.method),
        "backbone": model.backbone.spec(),
        "words": words_of(model),
        "layout": model.layout(),
        "files": files,
        **extra,
    }
    write_json(folder / MANIFEST, {**manifest, "sha256": _digest(manifest)})
    # Only what this checkpoint itself wrote before: the folder may hold other people's files.
    for name in old - files.keys():
        (folder / name).unlink(missing_ok=True)
    return folder / MANIFEST


def describe_method(method: Any) -> dict[str, Any]:
    """Return name and hyper-parameters of a method as JSON values."""
    described: dict[str, Any] = json.loads(
        json.dumps({"name": method.name, "hyper_parameters": method.hyper_parameters()})
    )
    return described


def _digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the manifest's content, its own entry left out."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return sha256_of_bytes(json.dumps(content, sort_keys=True).encode())


def _files_of(folder: Path) -> set[str]:
    """Return the files that the checkpoint in `folder` names; none if it cannot be read."""
    try:
        return {Path(name).name for name in read_manifest(folder)["files"]}
    except CheckpointError:
        return set()


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Read and check the manifest of a checkpoint.

    Raises:
        CheckpointError: there is none, it is damaged, or of a newer schema.
    """
    path = Path(folder)
    path = path if path.suffix == ".json" else path / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            expected=f"a checkpoint with a {MANIFEST} in {Path(folder)}",
            got="no such file",
            remedy="Name the folder that Learner.save or `cpool run` wrote.",
        )
    manifest: dict[str, Any] = read_json(path)
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(schema, int) or schema > SCHEMA or "files" not in manifest:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise CheckpointError(
            expected=f"a manifest of schema {SCHEMA} or older",
            got=f"schema {schema!r} in {path}",
            remedy="Install a newer cpool." if newer else "Restore the file from a copy.",
        )
    if manifest.get("sha256") != _digest(manifest):
        raise CheckpointError(
            expected=f"{path} as it was written",
            got="another content than its SHA-256 says",
            remedy="The file was altered: restore it from a copy, or train anew.",
        )
    return manifest


def load_state(model: PromptedModel, folder: Path | str) -> dict[str, Any]:
    """Fill a new model, built by the same method, from a checkpoint; return the manifest.

    Raises:
        CheckpointError: a file is missing, was altered by as little as a byte, does not fit the
            model, or was made with another backbone. The model is unchanged in the first cases.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_backbone(manifest, model)
    state: dict[str, Tensor] = {}
    for name, entry in manifest["files"].items():
        state.update(read_file(folder / name, entry))
    try:
        model.restore(manifest["layout"])
        model.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            expected="a checkpoint of the same method and hyper-parameters",
            got=f"one that does not fit: {error}",
            remedy="Build the model with the method that the manifest names.",
        ) from error
    return manifest


def check_backbone(manifest: Mapping[str, Any], model: PromptedModel) -> None:
    """Refuse a checkpoint of another backbone, naming both."""
    then, now = manifest["backbone"], model.backbone.spec()
    keys = ("fingerprint", "transform", "pooling", "normalize", "layers")
    other = [key for key in keys if then.get(key) != _plain(now.get(key))]
    if other:
        raise CheckpointError(
            expected=f"the backbone of the checkpoint, {_describe(then)}",
            got=f"{_describe(now)}; what differs: {', '.join(other)}",
            remedy="Load the same weights and processor with the same query features, or train "
            "anew.",
        )
    words = manifest.get("words")
    if words is not None and words != words_of(model):
        raise CheckpointError(
            expected=f"what words come from in the checkpoint ({words[:12]}): output embedding, "
            "and decoder where there is one beside an encoder",
            got=f"another one in {model.backbone.name!r}",
            remedy="Load the same language model, or train anew.",
        )


def words_of(model: PromptedModel) -> str | None:
    """Return the SHA-256 of what words come from, where a model scores them; else None.

    That is the output embedding, and the decoder of an encoder–decoder: neither is part of the
    fingerprint of the backbone.
    """
    if not isinstance(model.readout, LabelReadout | CompletionReadout):
        return None
    head, decoder = model.backbone.language_model.get_output_embeddings(), model.backbone.decoder
    inner = {} if decoder is None else decoder.state_dict(prefix="decoder.")
    # Of a quantised layer the weight is a method.
    own = {"weight": head.weight} if isinstance(head.weight, Tensor) else head.state_dict()
    return sha256_of_tensors(plain_state({**own, **inner})[0])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _describe(spec: Mapping[str, Any]) -> str:
    return (
        f"{spec.get('name')} (fingerprint {str(spec.get('fingerprint'))[:12]}, "
        f"transform {str(spec.get('transform'))[:12]}, "
        f"pooling {spec.get('pooling')}, normalize {spec.get('normalize')}, "
        f"layers {_plain(spec.get('layers'))})"
    )


def read_file(path: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read one file of a checkpoint, checked against its entry in the manifest.

    Raises:
        CheckpointError: the file is missing, or differs by as little as a byte.
    """
    data = path.read_bytes() if path.is_file() else b""
    digest = sha256_of_bytes(data)
    if digest != entry["sha256"]:
        raise CheckpointError(
            expected=f"{path.name} of {entry['bytes']} bytes, SHA-256 {entry['sha256'][:12]}…",
            got=f"{len(data)} bytes, SHA-256 {digest[:12]}…" if data else "no such file",
            remedy="The file was altered or cut: restore it from a copy, or train anew.",
        )
    return dict(load_bytes(data))


def _parts(model: PromptedModel) -> dict[str, dict[str, Tensor]]:
    """Sort the state into files: a pool's block each, its policy, the head, the trunk."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        parts.setdefault(_part(name), {})[name] = tensor.detach().cpu().contiguous().clone()
    return parts


def _part(name: str) -> str:
    words = name.split(".")
    if words[0] != "prompter":
        return words[0]
    branch, kind = words[2], words[3]
    if kind == "pool" and words[4] == "blocks":
        return f"{branch}.block{int(words[5]):04d}"
    return f"{branch}.{kind}"
