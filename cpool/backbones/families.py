"""What differs between kinds of models, as data: where prompts enter, who counts positions."""

from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal

from torch import nn

from cpool.errors import BackboneError

__all__ = [
    "BACKBONES",
    "FAMILIES",
    "Family",
    "Kind",
    "Positions",
    "Site",
    "family_of",
    "find",
    "is_seq2seq",
    "refused",
]

Kind = Literal["vision", "text", "causal", "seq2seq"]
Site = Literal["hidden", "inputs"]
# "mask": we pass position ids counted over the real tokens; "own": the model counts by itself
# (from its pad id, as RoBERTa does, or there is nothing to count, as in a vision model).
Positions = Literal["mask", "own"]


@dataclass(frozen=True)
class Family:
    """How one kind of model is prompted.

    Attributes:
        kind: "vision", "text" (encoder), "causal" (decoder) or "seq2seq" (encoder–decoder).
        about: one line for people.
        site: "hidden" (hook after the embeddings) or "inputs" (through `inputs_embeds`).
        cls: True when token 0 is a [CLS] token; prompts then come after it.
        positions: who makes the position ids.
        embeddings: paths of the module whose output the hook sees; the first that exists.
        final_norm: path of a norm that the model does not apply to its last hidden state.
        bias: class name of the modules that make a bias over token pairs, and the form of it.
        known: False for a kind that was only recognised by its structure.
    """

    kind: Kind
    about: str
    site: Site = "hidden"
    cls: bool = True
    positions: Positions = "own"
    embeddings: tuple[str, ...] = ("embeddings",)
    final_norm: str | None = None
    bias: str | None = None
    known: bool = True


def _vision(about: str, **changes: Any) -> Family:
    return Family("vision", about, **changes)


def _text(about: str, **changes: Any) -> Family:
    return Family("text", about, **changes)


def _causal(about: str) -> Family:
    return Family("causal", about, site="inputs", cls=False, positions="mask", embeddings=())


def _seq2seq(about: str) -> Family:
    return Family("seq2seq", about, site="inputs", cls=False, embeddings=())


FAMILIES: dict[str, Family] = {
    "vit": _vision("ViT"),
    "deit": _vision("DeiT"),
    "dinov2": _vision("DINOv2"),
    "dinov2_with_registers": _vision("DINOv2 with registers"),
    "beit": _vision("BEiT", bias="BeitRelativePositionBias"),
    "clip_vision_model": _vision("CLIP, vision tower", final_norm="post_layernorm"),
    "siglip_vision_model": _vision("SigLIP, vision tower", cls=False),
    "bert": _text("BERT", positions="mask"),
    "roberta": _text("RoBERTa"),
    "xlm-roberta": _text("XLM-RoBERTa"),
    "distilbert": _text("DistilBERT", positions="mask"),
    "mpnet": _text("MPNet (no prefixes)", bias="relative_attention_bias"),
    "electra": _text("ELECTRA", positions="mask", embeddings=("embeddings_project", "embeddings")),
    "modernbert": _text("ModernBERT", site="inputs", positions="mask", embeddings=()),
    "deberta-v2": _text(
        "DeBERTa-v2/v3 (no prefixes)", site="inputs", positions="mask", embeddings=()
    ),
    "gpt2": _causal("GPT-2"),
    "llama": _causal("Llama, SmolLM2"),
    "mistral": _causal("Mistral"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3"),
    "t5": _seq2seq("T5, Flan-T5"),
    "mt5": _seq2seq("mT5"),
    "umt5": _seq2seq("UMT5"),
}

BACKBONES: dict[str, str] = {
    "embedded": "small ViT of our own, pretrained on rendered glyphs; no download",
    **{name: f"{family.about} ({family.kind})" for name, family in FAMILIES.items()},
}


_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def find(model: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a dotted path, or None."""
    for name in path.split("."):
        if not isinstance(step := getattr(model, name, None), nn.Module):
            return None
        model = step
    return model


def family_of(model: Any) -> Family:
    """Return the family of a base model, from the table or else from its structure.

    Raises:
        BackboneError: a kind of model that cpool cannot prompt; the message lists the known ones.
    """
    config, name = model.config, model.config.model_type
    if getattr(config, "is_encoder_decoder", False) and not is_seq2seq(config):
        raise refused(name, "an encoder–decoder", "Use a T5, an encoder or a decoder.")
    if not all(isinstance(getattr(config, size, None), int) for size in _SIZES):
        raise refused(name, "no transformer with one width and depth", "Choose a known kind.")
    if name in FAMILIES:
        return FAMILIES[name]
    guess = _by_structure(model)
    if guess is None:
        raise refused(name, "its structure is not that of a known kind", "Choose a known kind.")
    return guess


def is_seq2seq(config: Any) -> bool:
    """Return whether a config is of an encoder–decoder that cpool knows."""
    family = FAMILIES.get(config.model_type)
    return family is not None and family.kind == "seq2seq"


def refused(name: str, reason: str, remedy: str) -> BackboneError:
    """Build the error for a kind of model that cannot be used."""
    return BackboneError(
        expected=f"a model of a known kind ({', '.join(FAMILIES)})",
        got=f"{name!r}: {reason}",
        remedy=remedy,
    )


def _by_structure(model: Any) -> Family | None:
    embeddings = find(model, "embeddings")
    if model.main_input_name == "pixel_values" and embeddings is not None:
        cls = any(hasattr(embeddings, name) for name in ("cls_token", "class_embedding"))
        return Family("vision", "by structure", cls=cls, known=False)
    if model.main_input_name != "input_ids":
        return None
    if any(getattr(module, "is_causal", False) for module in model.modules()):
        return replace(_causal("by structure"), known=False)
    if embeddings is None:
        return None
    # An embedding that knows the pad id counts positions from it (RoBERTa and its descendants).
    takes = "position_ids" in signature(model.forward).parameters
    positions: Positions = "mask" if takes and not hasattr(embeddings, "padding_idx") else "own"
    return Family("text", "by structure", positions=positions, known=False)
