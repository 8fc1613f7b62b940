"""Tiny random models of every kind, with tokenizer or image processor, made without network."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from cpool.backbones import Backbone, wrap_model

WIDTH, HEADS, DEPTH, IMAGE, PATCH, TEXT = 32, 4, 3, 16, 4, 64
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0-3; pad 1 as in RoBERTa, so that it matters
_LIST = """the a cat dog bird fish runs sleeps eats flies in on under over red blue green big small
house tree river card bank loan pay send lost stolen rate open close help please my your now"""
WORDS = tuple(_LIST.split())

_VISION = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
_TEXT = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": TEXT,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def _transformers(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _build(kind: str, model: str, config: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(sum(map(ord, kind)))
    made = _transformers(model)(_transformers(f"{model.removesuffix('Model')}Config")(**config))
    # Defaults start at a standard deviation of 0.02, where attention is flat and tests are blind.
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            gain = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(1.0 if gain else 0.0, 0.1 if gain else 0.25)
    return made


_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTModel", _VISION),
    "deit": ("DeiTModel", _VISION),
    "dinov2": ("Dinov2Model", {**_VISION, "mlp_ratio": 2}),
    "beit": ("BeitModel", {**_VISION, "use_relative_position_bias": True}),
    "beit_shared": ("BeitModel", {**_VISION, "use_shared_relative_position_bias": True}),
    "clip": ("CLIPVisionModel", _VISION),
    "siglip": ("SiglipVisionModel", _VISION),
    "bert": ("BertModel", _TEXT),
    "roberta": ("RobertaModel", {**_TEXT, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBertModel",
        {
            "vocab_size": _TEXT["vocab_size"],
            "dim": WIDTH,
            "n_layers": DEPTH,
            "n_heads": HEADS,
            "hidden_dim": 2 * WIDTH,
            "max_position_embeddings": TEXT,
            "pad_token_id": 1,
        },
    ),
    "mpnet": ("MPNetModel", _TEXT),
    "electra": ("ElectraModel", {**_TEXT, "embedding_size": WIDTH // 2}),
    "modernbert": (
        "ModernBertModel",
        {**_TEXT, "local_attention": 8, "cls_token_id": 0, "sep_token_id": 2},
    ),
    "deberta": (
        "DebertaV2Model",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "gpt2": (
        "GPT2Model",
        {
            "vocab_size": _TEXT["vocab_size"],
            "n_embd": WIDTH,
            "n_layer": DEPTH,
            "n_head": HEADS,
            "n_positions": TEXT,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
    ),
    "llama": ("LlamaModel", {**_TEXT, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Model", {**_TEXT, "num_key_value_heads": 2}),
    "t5": (
        "T5Model",
        {
            "vocab_size": _TEXT["vocab_size"],
            "d_model": WIDTH,
            "d_kv": WIDTH // HEADS,
            "d_ff": 2 * WIDTH,
            "num_heads": HEADS,
            "num_layers": DEPTH,
            "num_decoder_layers": 2,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 16,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
}

VISION = ("vit", "deit", "dinov2", "beit", "beit_shared", "clip", "siglip")
ENCODERS = ("bert", "roberta", "distilbert", "mpnet", "electra", "modernbert", "deberta")
DECODERS = ("gpt2", "llama", "qwen2")
SEQ2SEQ = ("t5",)
SPEAKING = DECODERS + SEQ2SEQ
# No features under prefixes: attention outside of the interface of transformers, or an encoder
# beside whose decoder they are.
NO_PREFIX = ("mpnet", "deberta", "t5")


def model(kind: str) -> Any:
    """Return a new random model."""
    return _build(kind, *_MODELS[kind])


def language_model(kind: str) -> Any:
    """Return a decoder with its output embedding, over the weights of `model(kind)`.

    Or an encoder–decoder with it, which is the input's.
    """
    base = model(kind)
    if kind in SEQ2SEQ:
        whole = _transformers("AutoModelForSeq2SeqLM").from_config(base.config)
        whole.load_state_dict(base.state_dict(), strict=False)
        return whole.eval()
    made = _transformers("AutoModelForCausalLM").from_config(base.config)
    with torch.no_grad():
        made.get_output_embeddings().weight.normal_(0.0, 0.25)  # tied to the input's in GPT-2
    made.base_model.load_state_dict(base.state_dict())
    return made.eval()


def tokenizer(
    *, special: bool = True, start: bool = True, end: bool = True, side: str = "right"
) -> Any:
    """Return a word-level tokenizer of WORDS; with `special`, texts become <s> … </s>.

    Without `start` they become … </s>, as those of T5; without `end` <s> …, as those of Llama.
    """
    words = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    if special:
        core.post_processor = TemplateProcessing(
            single=" ".join(["<s>"] * start + ["$A"] + ["</s>"] * end),
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
    return _transformers("PreTrainedTokenizerFast")(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side=side,
        model_max_length=TEXT,
    )


def image_processor() -> Any:
    """Return a processor that resizes to IMAGE pixels and normalises."""
    return _transformers("ViTImageProcessorPil")(size={"height": IMAGE, "width": IMAGE})


def new(kind: str, **options: Any) -> Backbone:
    """Return a new backbone of a kind of KINDS; options go to `wrap_model`."""
    words = tokenizer(special=kind not in DECODERS, start=kind not in SEQ2SEQ)
    processor = image_processor() if kind in VISION else words
    made = language_model(kind) if kind in SPEAKING else model(kind)
    return wrap_model(made, processor, name=f"tiny-{kind}", **options)


@cache
def starting(kind: str) -> Backbone:
    """Return a decoder whose tokenizer begins each text with a start token, as Llama's does."""
    return wrap_model(language_model(kind), tokenizer(end=False), name=f"tiny-{kind}-start")


KINDS: dict[str, Callable[..., Backbone]] = {
    kind: (lambda kind=kind, **options: new(kind, **options)) for kind in _MODELS
}


@cache
def backbone(kind: str) -> Backbone:
    """Return the shared backbone of a kind; it is frozen, so tests cannot disturb one another."""
    return new(kind)


def raw(kind: str, n: int = 4, seed: int = 0) -> Any:
    """Return raw inputs: uint8 images [n 10 12 3], or texts of different lengths."""
    rng = np.random.default_rng(seed)
    if kind in VISION:
        return rng.integers(0, 256, (n, 10, 12, 3), dtype=np.uint8)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(n)]


def batch(kind: str, n: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Return a prepared batch of `n` random inputs."""
    return backbone(kind).prepare(raw(kind, n, seed))


def rows(inputs: dict[str, Tensor], index: Any) -> dict[str, Tensor]:
    """Return some rows of a batch."""
    return {key: value[index] for key, value in inputs.items()}


def unpadded(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Return one row of a batch alone, without its padding."""
    alone = rows(inputs, slice(row, row + 1))
    if "attention_mask" not in alone:
        return alone
    kept = alone["attention_mask"][0].bool()
    return {key: value[:, kept] for key, value in alone.items()}


def padded(inputs: dict[str, Tensor], more: int, side: str) -> dict[str, Tensor]:
    """Return a batch whose padding is on one side, with `more` columns of it."""
    if "attention_mask" not in inputs:
        return inputs
    size, width = inputs["input_ids"].shape
    result = {key: torch.zeros(size, width + more, dtype=torch.long) for key in inputs}
    result["input_ids"] += 1  # the pad id
    for i in range(size):
        alone = unpadded(inputs, i)
        length = alone["input_ids"].shape[1]
        place = slice(width + more - length, None) if side == "left" else slice(0, length)
        for key, value in alone.items():
            result[key][i, place] = value[0]
    return result


def prompts(kind: str, n: int, what: str, seed: int = 0) -> Any:
    """Return random Prompts of a batch: what is "none", "tokens", "prefix" or "both"."""
    from cpool.prompter import Prompts

    made, rng = backbone(kind), torch.Generator().manual_seed(seed)
    tokens, layers = None, {}
    if what in ("tokens", "both"):
        tokens = torch.randn(n, 3, made.hidden_size, generator=rng)
    if what in ("prefix", "both"):
        shape = (n, made.num_kv_heads, 2, made.head_dim)
        for layer in (0, made.prefix_layers - 1):
            key, value = (torch.randn(shape, generator=rng) for _ in range(2))
            layers[layer] = (key, value)
    return Prompts(tokens, layers, torch.zeros(()), {})


def cached(prompts: Any) -> Any:
    """Return the prefixes of one row as the cache that transformers keeps beside an encoder."""
    cache = _transformers("EncoderDecoderCache")(
        _transformers("DynamicCache")(), _transformers("DynamicCache")()
    )
    for layer, (key, value) in sorted(prompts.layers.items()):
        cache.self_attention_cache.update(key, value, layer)
    return cache


def part(prompts: Any, index: Any) -> Any:
    """Return the prompts of some rows of a batch."""
    tokens = None if prompts.tokens is None else prompts.tokens[index]
    layers = {n: (key[index], value[index]) for n, (key, value) in prompts.layers.items()}
    return prompts._replace(tokens=tokens, layers=layers)
