"""Making a Backbone: from a hub id, a folder, the embedded one, or a model already loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cpool.backbones.base import Backbone
from cpool.backbones.families import FAMILIES, family_of, refused
from cpool.errors import BackboneError, ConfigError, CpoolError, nearest

__all__ = ["load_backbone", "wrap_model"]

EMBEDDED = Path(__file__).parent.parent / "assets" / "glyph-vit"
# Two-tower checkpoints: the vision tower is the backbone.
_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


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
        name: "embedded", a folder written by `save_pretrained`, or a hub id. Weights are read
            from safetensors only, and no code of a checkpoint is run.
        pooling: "cls", "mean" or "auto"; see `Backbone`.
        normalize: L2-normalise the query.
        layers: hidden states that the query reads.
        device: where to put it; the CPU by default.
        dtype: type of the weights, "float32" by default whatever the checkpoint holds.

    Raises:
        BackboneError: nothing under that name, weights missing, or a kind that is not supported.

    >>> load_backbone("./no/such/folder")
    Traceback (most recent call last):
        ...
    cpool.errors.BackboneError: expected a folder ./no/such/folder; got nothing there. Check ...
    """
    source = _source(str(name))
    with _quiet():
        model, lm_head = _load(source, _dtype(dtype))
        processor = _load_processor(source, model)
    query = {"pooling": pooling, "normalize": normalize, "layers": layers}
    backbone = _backbone(model, processor, lm_head, str(name), query)
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
    base, lm_head = _base_of(model)
    known_as = name or getattr(base.config, "_name_or_path", "") or base.config.model_type
    query = {"pooling": pooling, "normalize": normalize, "layers": layers}
    backbone = _backbone(base, processor, lm_head, known_as, query)
    return backbone.to(device=device, dtype=None if dtype is None else _dtype(dtype))


def _backbone(
    model: Any, processor: Any, lm_head: Any, name: str, query: dict[str, Any]
) -> Backbone:
    family = family_of(model)
    backbone = Backbone(model, family, processor=processor, name=name, lm_head=lm_head, **query)
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


def _base_of(model: Any) -> tuple[Any, Any]:
    if not hasattr(model, "config") or not hasattr(model, "base_model"):
        raise BackboneError(
            expected="a PreTrainedModel of transformers",
            got=type(model).__name__,
            remedy="Load it with transformers, or use `load_backbone(folder)`.",
        )
    if model.config.model_type in _TOWERS and hasattr(model, "vision_model"):
        return model.vision_model, None
    base = model.base_model
    # The output embedding is kept for readouts that score words; often it shares the input's.
    head = model.get_output_embeddings() if base is not model else None
    causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return base, head if causal else None


def _load(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(source)
        model, report = _model_class(config).from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **_without_heads(config),
        )
    except CpoolError:
        raise
    except Exception as error:  # transformers raises what its many parts raise
        raise _not_loaded(source, error) from error
    missing = [k for k in report["missing_keys"] if "pooler" not in k and "lm_head" not in k]
    if missing:
        raise BackboneError(
            expected=f"all weights of a {config.model_type} model in {source}",
            got=f"{len(missing)} missing, such as {sorted(missing)[0]}",
            remedy="Use a complete checkpoint; random weights would give random features.",
        )
    return _base_of(model)


def _model_class(config: Any) -> Any:
    import transformers

    kind = _TOWERS.get(config.model_type, config.model_type)
    if kind == "clip_vision_model":
        return transformers.CLIPVisionModel
    if kind == "siglip_vision_model":
        return transformers.SiglipVisionModel
    if getattr(config, "is_encoder_decoder", False):
        raise refused(kind, "an encoder–decoder", "Use an encoder or a decoder.")
    family = FAMILIES.get(kind)
    if family is not None and family.kind == "causal":
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _without_heads(config: Any) -> dict[str, Any]:
    # Poolers are heads on top of the hidden states; without them the copy in memory is smaller.
    poolers = {"vit", "deit", "beit", "bert", "roberta", "xlm-roberta", "mpnet"}
    if config.model_type in poolers:
        return {"add_pooling_layer": False}
    return {"vision_use_head": False} if config.model_type == "siglip_vision_model" else {}


def _load_processor(source: str, model: Any) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        if model.main_input_name == "pixel_values":
            # The PIL backend needs no torchvision; its settings are followed by images.prepare.
            pil: Any = AutoImageProcessor
            return pil.from_pretrained(source, backend="pil")
        return AutoTokenizer.from_pretrained(source)
    except Exception:  # no processor files: prepare() says so when it is needed
        return None


_CHECK = "Check the path; a folder as `model.save_pretrained(folder)` writes it will do."


def _source(name: str) -> str:
    """Return the folder or hub id that a name means."""
    if name == "embedded":
        return str(EMBEDDED)
    # "a/b" may be a hub id or a folder: what is there decides.
    if Path(name).is_dir():
        return name
    if _is_path(name):
        raise BackboneError(expected=f"a folder {name}", got="nothing there", remedy=_CHECK)
    if "/" not in name and nearest(name, ["embedded"]):
        raise BackboneError(
            expected='"embedded", a folder, or a hub id',
            got=repr(name),
            remedy="Did you mean 'embedded'?",
        )
    return name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and reports of unused weights off the terminal; errors still raise."""
    from transformers import utils

    logging: Any = utils.logging
    hub = getLogger("huggingface_hub")
    before = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.setLevel(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        if before[1]:
            logging.enable_progress_bar()
        hub.setLevel(before[2])


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _not_loaded(source: str, error: Exception) -> BackboneError:
    if Path(source).is_dir():
        expected = f"config.json and model.safetensors of a supported model in {source}"
        remedy = "Write the folder with `model.save_pretrained(folder)`."
    else:
        expected = f"a folder or a model of the hub named {source!r}"
        remedy = 'Check the name and the network, or use "embedded" or a local folder.'
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return BackboneError(
        expected=expected, got=f"{type(error).__name__}: {reason}"[:300], remedy=remedy
    )


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
