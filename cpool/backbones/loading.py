"""Making a Backbone: from a hub id, a folder, the embedded one, or a model already loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cpool.backbones._checkpoints import base_of, load, load_processor, quiet, resolve
from cpool.backbones._packages import package_folder
from cpool.backbones.base import Backbone
from cpool.backbones.families import family_of, refused
from cpool.errors import ConfigError

__all__ = ["load_backbone", "wrap_model"]


def load_backbone(
    name: str | Path = "embedded",
    *,
    pooling: str = "auto",
    normalize: bool = False,
    layers: Sequence[int] = (-1,),
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Backbone:
    """Load a frozen backbone with its image processor or tokenizer.

    Args:
        name: "embedded", a folder written by `save_pretrained`, a hub id, or
            "package:import_name/folder", a folder of an installed package. Weights are read from
            safetensors only, and no code of a checkpoint is run.
        pooling: "cls", "mean" or "auto"; see `Backbone`.
        normalize: L2-normalise the query.
        layers: hidden states that the query reads.
        device: where to put it; the CPU by default.
        dtype: type of the weights, "float32" by default whatever the checkpoint holds.

    Raises:
        BackboneError: nothing under that name, weights missing, or a kind that is not supported.
        MissingDependencyError: the package of that name is not installed.

    >>> load_backbone("./no/such/folder")
    Traceback (most recent call last):
        ...
    cpool.errors.BackboneError: expected a folder ./no/such/folder; got nothing there. Check ...
    """
    source = resolve(str(package_folder(str(name)) or name))
    with quiet():
        model, language_model = load(source, _dtype(dtype))
        processor = load_processor(source, model)
    query = {"pooling": pooling, "normalize": normalize, "layers": layers}
    backbone = _backbone(model, processor, language_model, str(name), query)
    return backbone.to(device) if device is not None else backbone


def wrap_model(
    model: Any,
    processor: Any = None,
    *,
    name: str | None = None,
    pooling: str = "auto",
    normalize: bool = False,
    layers: Sequence[int] = (-1,),
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Backbone:
    """Make a backbone of a loaded `PreTrainedModel`, which is frozen in place, not copied.

    Of a model with a head, the base model is used; of CLIP and SigLIP, the vision tower.

    Raises:
        BackboneError: a kind of model that is not supported.
    """
    base, language_model = base_of(model)
    known_as = name or getattr(base.config, "_name_or_path", "") or base.config.model_type
    query = {"pooling": pooling, "normalize": normalize, "layers": layers}
    backbone = _backbone(base, processor, language_model, known_as, query)
    return backbone.to(device=device, dtype=None if dtype is None else _dtype(dtype))


def _backbone(
    model: Any, processor: Any, language_model: Any, name: str, query: dict[str, Any]
) -> Backbone:
    family = family_of(model)
    backbone = Backbone(
        model, family, processor=processor, name=name, language_model=language_model, **query
    )
    if not family.known:
        _try(backbone)
    return backbone


def _try(backbone: Backbone) -> None:
    """Refuse a model of an unknown kind unless it does what the known kinds do.

    That is: one hidden state of width D a token, and text rows that padding does not change.
    """
    try:
        alone = backbone.query(backbone.smallest_batch())
        fits = alone.shape == (1, backbone.query_size)
        if fits and backbone.kind != "vision":
            ids = backbone.smallest_batch()["input_ids"]
            pad = getattr(backbone.plain_model.config, "pad_token_id", None) or 0
            mask = torch.ones_like(ids)
            for side in ((0, 3), (3, 0)):
                padded = {
                    "input_ids": F.pad(ids, side, value=pad),
                    "attention_mask": F.pad(mask, side),
                }
                fits &= torch.allclose(backbone.query(padded), alone, atol=1e-3)
    except Exception as error:  # whatever a model of an unknown kind may raise
        reason = f"{type(error).__name__} in a trial run"
        raise refused(backbone.family, reason, "Choose a known kind.") from error
    if not fits:
        raise refused(backbone.family, "its rows depend on padding", "Choose a known kind.")


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(
            expected='a floating point type such as "float32" or "bfloat16"',
            got=repr(dtype),
            remedy="Choose one of these.",
        )
    return found
