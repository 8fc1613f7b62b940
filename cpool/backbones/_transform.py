"""One SHA-256 for a processor: what it makes of raw inputs, and nothing else."""

import json
from typing import Any

from cpool._io import sha256_of_bytes
from cpool.backbones._pixels import Settings
from cpool.backbones.families import Kind

__all__ = ["TransformFingerprint"]

# Names of classes and files, and versions: they differ between copies of one processor.
_NAMES = frozenset(
    {
        "auto_map",
        "feature_extractor_type",
        "image_processor_type",
        "name_or_path",
        "processor_class",
        "transformers_version",
    }
)
# Parts of a fast tokenizer that tokenising does not read, or that every call sets anew.
_UNREAD = ("version", "truncation", "padding", "decoder")
_CHEAP = ("truncation_side", "model_max_length", "model_input_names")


class TransformFingerprint:
    """The fingerprint of a processor as it is now, cheap enough to ask for with every batch.

    The settings of an image processor are read each time. Of a tokenizer the vocabulary is hashed
    once, and again when another sign changes: the number of tokens, the special tokens, sides and
    lengths, or the normaliser, pre-tokeniser or post-processor of a fast one.
    """

    def __init__(self) -> None:
        self._processor: Any = None  # held, so that no other can get its address
        self._signs = self._value = ""

    def __call__(self, processor: Any, kind: Kind) -> str:
        """Return 64 hexadecimal digits, or "none" without a processor."""
        if processor is None:
            return "none"
        signs = _json(_settings(processor) if kind == "vision" else _signs(processor, kind))
        if processor is not self._processor or signs != self._signs:
            words = "" if kind == "vision" else _vocabulary(processor)
            self._value = sha256_of_bytes(f"{signs}|{words}".encode())
            self._processor, self._signs = processor, signs
        return self._value


def _settings(processor: Any) -> dict[str, Any]:
    stated = processor.to_dict() if hasattr(processor, "to_dict") else vars(processor)
    kept = {k: v for k, v in stated.items() if k not in _NAMES and not k.startswith("_")}
    # Settings that we follow say all; a processor that is called itself may do anything.
    called = "" if Settings(processor).plain else type(processor).__qualname__
    return {"settings": kept, "called": called}


def _signs(tokenizer: Any, kind: Kind) -> dict[str, Any]:
    # Positions of a decoder are counted over real tokens, so the side of padding changes no row of
    # it, and a pipeline of transformers sets it. An encoder that counts by itself is another thing.
    side = "right" if kind == "causal" else getattr(tokenizer, "padding_side", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = ("normalizer", "pre_tokenizer", "post_processor") if backend is not None else ()
    return {
        "tokens": len(tokenizer) if hasattr(tokenizer, "__len__") else None,
        "special": getattr(tokenizer, "special_tokens_map", None),
        "cheap": [side, *(getattr(tokenizer, name, None) for name in _CHEAP)],
        "parts": [_state(getattr(backend, name)) for name in parts],
    }


def _state(part: Any) -> str:
    return "" if part is None else part.__getstate__().decode()


def _vocabulary(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None
        return _json([type(tokenizer).__qualname__, words])
    whole = json.loads(backend.to_str())
    return _json({key: value for key, value in whole.items() if key not in _UNREAD})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
