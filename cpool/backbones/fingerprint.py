"""One SHA-256 for a model: what its output depends on, and nothing else."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from cpool._io import sha256_of_bytes, sha256_of_tensors

__all__ = ["Fingerprint"]

# Settings of a config that do not change the hidden states of a forward in eval mode. Labels and
# heads are not part of a backbone; paths and versions differ between copies of one checkpoint.
_IRRELEVANT = (
    "_",
    "architectures",
    "attn_implementation",
    "bos_token",
    "dtype",
    "eos_token",
    "id2label",
    "label2id",
    "num_labels",
    "output_",
    "problem_type",
    "return_dict",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "quantization_config",
    "vision_use_head",
)
# Heads on top of the hidden states, which some checkpoints carry and others do not.
_HEADS = ("pooler.", "head.")


class Fingerprint:
    """The fingerprint of a model, computed once and again when signs of a change are seen.

    Hashing costs about a second a gigabyte, so each call compares cheaper signs: storage address,
    autograd version, type and first element of every parameter and persistent buffer (poolers and
    heads left out). They show what torch writes in place and what is put in a tensor's place.

    Not seen is a write that autograd does not count (through `.data`, a NumPy view or another
    process) and that leaves the first element of each tensor as it was; nor a change of the config
    alone, which is read together with the weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._signs: tuple[Any, ...] | None = None
        self._value = ""

    def __call__(self) -> str:
        """Return 64 hexadecimal digits."""
        weights = self._weights()
        signs = _signs(weights)
        if signs != self._signs:
            settings = _settings(getattr(self.model, "config", None))
            text = json.dumps(settings, sort_keys=True, default=str)
            digest = f"{text}|{sha256_of_tensors(weights)}"
            self._value, self._signs = sha256_of_bytes(digest.encode()), signs
        return self._value

    def _weights(self) -> dict[str, Tensor]:
        # named_parameters + persistent buffers: state_dict() would copy names through hooks.
        tensors = self.model.state_dict(keep_vars=True)
        return {
            name.removeprefix("_orig_mod."): tensor.detach()
            for name, tensor in tensors.items()
            if not name.removeprefix("_orig_mod.").startswith(_HEADS)
        }


def _signs(weights: dict[str, Tensor]) -> tuple[Any, ...]:
    tensors = [tensor for tensor in weights.values() if tensor.numel()]
    first = torch.stack([tensor.reshape(-1)[0].double() for tensor in tensors]).tolist()
    return tuple(
        (t.data_ptr(), t._version, t.dtype, v) for t, v in zip(tensors, first, strict=True)
    )


def _settings(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    stated = config.to_diff_dict()
    return {
        key: value
        for key, value in stated.items()
        if not key.startswith(_IRRELEVANT) and "dropout" not in key and not key.endswith("pdrop")
    } | {"model_type": config.model_type}
