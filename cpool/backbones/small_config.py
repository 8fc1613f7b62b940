"""Configurations of small models: the kind and depth of a backbone by its name, no width."""

from pathlib import Path
from typing import Any, NamedTuple

from cpool.backbones._checkpoints import TOWERS, quiet, resolve
from cpool.backbones._packages import package_folder
from cpool.backbones.families import FAMILIES
from cpool.errors import BackboneError

__all__ = ["SmallConfig", "small_config"]

WIDTH, HEADS = 32, 4
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")

_VIT_B16: dict[str, Any] = {"num_hidden_layers": 12, "patch_size": 16}
_T5_LARGE: dict[str, Any] = {"num_layers": 24}
# What the experiments of papers name: kind and what decides whether a method fits.
_BY_NAME: dict[str, tuple[str, dict[str, Any]]] = {
    "facebook/deit-base-patch16-224": ("deit", _VIT_B16),
    "facebook/dinov2-base": ("dinov2", {"num_hidden_layers": 12, "patch_size": 14}),
    "google-bert/bert-base-uncased": ("bert", {"num_hidden_layers": 12}),
    "google-t5/t5-base": ("t5", {"num_layers": 12}),
    "google-t5/t5-large": ("t5", _T5_LARGE),
    "google-t5/t5-small": ("t5", {"num_layers": 6}),
    "google/vit-base-patch16-224": ("vit", _VIT_B16),
    "google/vit-base-patch16-224-in21k": ("vit", _VIT_B16),
    "openai-community/gpt2": ("gpt2", {"n_layer": 12}),
    "openai/clip-vit-base-patch16": ("clip_vision_model", _VIT_B16),
    "sentence-transformers/all-MiniLM-L6-v2": ("bert", {"num_hidden_layers": 6}),
    "t5-large": ("t5", _T5_LARGE),
}
# The first part that a name holds decides; what is in another one comes before it.
_BY_PART = {
    "dinov2": "dinov2",
    "deit": "deit",
    "beit": "beit",
    "siglip": "siglip_vision_model",
    "clip": "clip_vision_model",
    "vit": "vit",
    "xlm-roberta": "xlm-roberta",
    "distilbert": "distilbert",
    "modernbert": "modernbert",
    "deberta": "deberta-v2",
    "roberta": "roberta",
    "mpnet": "mpnet",
    "electra": "electra",
    "bert": "bert",
    "minilm": "bert",
    "umt5": "umt5",
    "mt5": "mt5",
    "t5": "t5",
    "gpt2": "gpt2",
    "smollm2": "llama",
    "llama": "llama",
    "mistral": "mistral",
    "qwen3": "qwen3",
    "qwen2": "qwen2",
}


class SmallConfig(NamedTuple):
    """A configuration with small widths, and where kind and depth are from.

    Attributes:
        config: of transformers.
        origin: for people.
    """

    config: Any
    origin: str


def small_config(name: str, depth: int | None = None) -> SmallConfig:
    """Return a small configuration of the kind that a name means; nothing is downloaded.

    The kind is that of the backbone, and so is the depth, up to `depth`, since methods name
    layers; widths, heads and images are small, and a decoder that only answers has two layers.
    They are read from the folder, package or copy of the hub on this machine, else from a table of
    names; where neither knows it, the name says the kind, and the depth is that of its
    configuration class.

    Args:
        name: as `load_backbone` takes it.
        depth: most layers; those of the backbone by default.

    Raises:
        BackboneError: a folder without a configuration, or a name that says no kind.
        MissingDependencyError: the package of that name is not installed.

    >>> small = small_config("google/vit-base-patch16-224-in21k")
    >>> small.config.model_type, small.config.num_hidden_layers, small.config.hidden_size
    ('vit', 12, 32)
    """
    config, origin = _found(name)
    return SmallConfig(_small(config, depth), origin)


def _found(name: str) -> tuple[Any, str]:
    package = package_folder(name)
    source = resolve(str(package or name))
    if package is not None or Path(source).is_dir():
        return _read(source), "its folder"
    if name in _BY_NAME:
        kind, facts = _BY_NAME[name]
        return _made(kind, facts), "the table of cpool"
    try:
        return _read(source), "the copy of the hub on this machine"
    except BackboneError:
        pass
    kind = next((kind for part, kind in _BY_PART.items() if part in name.lower()), "")
    if not kind:
        raise BackboneError(
            expected="a backbone whose kind is known without the hub",
            got=repr(name),
            remedy=f"Name a folder, or a name with {', '.join(_BY_PART)} in it.",
        )
    return _made(kind, {}), f"its name: a {kind} of usual depth"


def _read(source: str) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(source, local_files_only=True)
    except Exception as error:  # transformers raises what its many parts raise
        raise BackboneError(
            expected=f"a config.json of a supported model in {source}",
            got=type(error).__name__,
            remedy="Write the folder with `model.save_pretrained(folder)`.",
        ) from error
    return config.vision_config if config.model_type in TOWERS else config


def _made(kind: str, facts: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **facts)


def _small(config: Any, depth: int | None) -> Any:
    """Return a configuration of the same class with small widths."""
    known = config.to_dict()
    grouped = known.get("num_key_value_heads") or HEADS
    few = HEADS // 2 if grouped != getattr(config, "num_attention_heads", HEADS) else HEADS
    sizes: dict[str, Any] = {
        **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), WIDTH),
        **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), HEADS),
        **dict.fromkeys(("intermediate_size", "d_ff", "hidden_dim", "n_inner"), 2 * WIDTH),
        **dict.fromkeys(("head_dim", "d_kv"), WIDTH // HEADS),
        "num_key_value_heads": few,
        "projection_dim": WIDTH,
        "pooler_hidden_size": WIDTH,
        # Of a vision model as a part of others: stages that it then no longer has.
        **dict.fromkeys(("out_features", "out_indices", "_out_features", "_out_indices")),
        "quantization_config": None,
    }
    known = {key: value for key, value in known.items() if key != "stage_names"}
    changes = {key: value for key, value in sizes.items() if known.get(key) is not None}
    if FAMILIES.get(config.model_type) and FAMILIES[config.model_type].kind == "vision":
        changes["image_size"] = 2 * _patch(known)
    if known.get("num_decoder_layers") is not None:
        changes["num_decoder_layers"] = 2
    for key in _DEPTHS if depth is not None else ():
        if known.get(key) is not None:
            changes[key] = min(known[key], depth)
    if isinstance(known.get("layer_types"), list) and depth is not None:
        changes["layer_types"] = known["layer_types"][:depth]
    return type(config).from_dict({**known, **changes})


def _patch(known: dict[str, Any]) -> int:
    size = known.get("patch_size", 16)
    return int(size[0] if isinstance(size, list | tuple) else size)
