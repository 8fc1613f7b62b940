"""Small random backbones: the architecture of a name, without its weights, made on the spot."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from cpool.backbones._checkpoints import model_class, quiet, without_heads
from cpool.backbones.base import Backbone
from cpool.backbones.families import FAMILIES
from cpool.backbones.loading import wrap_model
from cpool.backbones.small_config import small_config

__all__ = ["small_backbone"]

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0-3
_WORDS = 1000


def small_backbone(
    name: str,
    *,
    texts: Iterable[str] = (),
    depth: int | None = None,
    pooling: str = "auto",
    normalize: bool = False,
    layers: Sequence[int] = (-1,),
    dtype: str | None = None,
) -> Backbone:
    """Make a backbone of the kind and depth of `name` with small widths and random weights.

    Its features mean nothing. It is for finding out whether a method fits an architecture, before
    anything is downloaded; an image is four patches.

    Args:
        name: as `load_backbone` takes it.
        texts: what the tokenizer of a text model shall know; other words become bytes.
        depth: most layers; those of the backbone by default.
        pooling, normalize, layers, dtype: as in `load_backbone`.

    Raises:
        BackboneError: a name that says no kind, or a kind that is not supported.
        MissingDependencyError: the package of that name is not installed.

    >>> backbone = small_backbone("google/vit-base-patch16-224-in21k")
    >>> backbone.family, backbone.num_layers, backbone.hidden_size
    ('vit', 12, 32)
    """
    config = small_config(name, depth).config
    family = FAMILIES.get(config.model_type)
    kind = "text" if family is None else family.kind
    processor = _images(config) if kind == "vision" else _words(texts, kind)
    if kind != "vision":
        config = _with_ids(config, len(processor), kind)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        made: Any = model_class(config)
        build = getattr(made, "from_config", made)
        model = build(config, **without_heads(config)).eval()
    query: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "layers": layers}
    return wrap_model(model, processor, name=f"{name} (random, small)", dtype=dtype, **query)


def _with_ids(config: Any, size: int, kind: str) -> Any:
    """Return a configuration that knows the special tokens of `_words`."""
    known = config.to_dict()
    ids = {"pad": 0, "bos": 1, "eos": 2, "cls": 1, "sep": 2}
    changes = {f"{k}_token_id": i for k, i in ids.items() if f"{k}_token_id" in known}
    changes |= {"decoder_start_token_id": 0} if kind == "seq2seq" else {}
    return type(config).from_dict({**known, **changes, "vocab_size": size})


def _images(config: Any) -> Any:
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": config.image_size, "width": config.image_size})


def _words(texts: Iterable[str], kind: str) -> Any:
    """Return a byte-level tokenizer of the texts, with special tokens where the kind has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made: Any = PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if kind != "causal":
        start = "" if kind == "seq2seq" else "<s> "
        core.post_processor = processors.TemplateProcessing(
            single=f"{start}$A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return made(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
