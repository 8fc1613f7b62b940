"""Reading checkpoints with transformers, quietly and with errors that say what to do.

Only safetensors are read and no code of a checkpoint is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch

from cpool.backbones.families import FAMILIES, is_seq2seq, refused
from cpool.errors import BackboneError, CpoolError, nearest

__all__ = [
    "TOWERS",
    "base_of",
    "load",
    "load_processor",
    "model_class",
    "quiet",
    "resolve",
    "without_heads",
]

EMBEDDED = Path(__file__).parent.parent / "assets" / "glyph-vit"
TOWERS = ("clip", "siglip")  # two-tower checkpoints: the vision tower is the backbone


def base_of(model: Any) -> tuple[Any, Any]:
    """Return the base model of a loaded model, and the language model around it if it is one."""
    if not hasattr(model, "config") or not hasattr(model, "base_model"):
        raise BackboneError(
            expected="a PreTrainedModel of transformers",
            got=type(model).__name__,
            remedy="Load it with transformers, or use `load_backbone(folder)`.",
        )
    if model.config.model_type in TOWERS and hasattr(model, "vision_model"):
        return model.vision_model, None
    if is_seq2seq(model.config):
        # The encoder reads; the whole is kept for its decoder, if it has words to give.
        speaks = model.get_output_embeddings() is not None
        return model.get_encoder(), model if speaks else None
    base = model.base_model
    # It is kept for readouts that score words and to generate; it holds no weights of its own but
    # the output embedding, which often is the input's.
    causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    whole = causal and base is not model and model.get_output_embeddings() is not None
    return base, model if whole else None


def load(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a folder or hub id; return what `base_of` returns.

    Raises:
        BackboneError: nothing there, weights missing or damaged, or a kind that is refused.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(source)
        if config.model_type in TOWERS:
            config = config.vision_config
        model, report = model_class(config).from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **without_heads(config),
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
    base, whole = base_of(model)
    # A head that the checkpoint lacks, and that is not tied to the embeddings, would be random.
    return base, None if any("lm_head" in k for k in report["missing_keys"]) else whole


def model_class(config: Any) -> Any:
    """Return the class of transformers that a checkpoint with this configuration is loaded with."""
    import transformers

    kind = config.model_type
    if kind == "clip_vision_model":
        return transformers.CLIPVisionModel
    if kind == "siglip_vision_model":
        return transformers.SiglipVisionModel
    if is_seq2seq(config):
        # Checkpoints of the encoder alone, such as those of sentence models, are named after it.
        named = any(name.endswith("EncoderModel") for name in config.architectures or ())
        return (
            transformers.AutoModelForTextEncoding if named else transformers.AutoModelForSeq2SeqLM
        )
    if getattr(config, "is_encoder_decoder", False):
        raise refused(kind, "an encoder–decoder", "Use a T5, an encoder or a decoder.")
    family = FAMILIES.get(kind)
    if family is not None and family.kind == "causal":
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def without_heads(config: Any) -> dict[str, Any]:
    """Return the options of that class that leave out what is not used."""
    # Poolers are heads on top of the hidden states; without them the copy in memory is smaller.
    poolers = {"vit", "deit", "beit", "bert", "roberta", "xlm-roberta", "mpnet"}
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False
    return {"add_pooling_layer": False} if config.model_type in poolers else {}


def load_processor(source: str, model: Any) -> Any:
    """Return the image processor or tokenizer beside the weights, or None."""
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


def resolve(name: str) -> str:
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
def quiet() -> Iterator[None]:
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
