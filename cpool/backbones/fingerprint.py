"""One SHA-256 for a model: what its output depends on, and nothing else."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cpool._io import sha256_of_bytes, sha256_of_tensors

__all__ = ["Fingerprint", "plain_state"]

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
        weights, other = self._weights()
        held = {id(tensor) for tensor in chain(self.model.parameters(), self.model.buffers())}
        signs = (_signs(weights, held), other)
        if signs != self._signs:
            settings = _settings(getattr(self.model, "config", None))
            text = json.dumps(settings, sort_keys=True, default=str)
            digest = f"{text}|{sha256_of_tensors(weights)}"
            if other:
                digest += f"|{json.dumps(other, sort_keys=True)}"
            self._value, self._signs = sha256_of_bytes(digest.encode()), signs
        return self._value

    def _weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        # named_parameters + persistent buffers: state_dict() would copy names through hooks.
        state = self.model.state_dict(keep_vars=True)
        bare = {name.removeprefix("_orig_mod."): value for name, value in state.items()}
        return plain_state({k: v for k, v in bare.items() if not k.startswith(_HEADS)})


def plain_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the plain tensors of a `state_dict`, and what else is in it as text.

    Quantised layers also hold tuples, quantised tensors and types there.
    """
    tensors: dict[str, Tensor] = {}
    other: dict[str, str] = {}
    for name, value in _leaves(state):
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, bool | int | float | str | torch.dtype | None):
            other[name] = str(value)
    return tensors, other


def _leaves(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_quantized:
            yield from _leaves({f"{name}.{key}": part for key, part in _unquantised(value).items()})
        elif isinstance(value, tuple | list):
            yield from _leaves({f"{name}.{i}": part for i, part in enumerate(value)})
        elif isinstance(value, Mapping):
            yield from _leaves({f"{name}.{key}": part for key, part in value.items()})
        else:
            yield name, value


def _unquantised(tensor: Tensor) -> dict[str, Any]:
    """Return the whole numbers of a quantised tensor, and what they stand for."""
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale: Any = tensor.q_scale()
        zero: Any = tensor.q_zero_point()
    else:
        scale, zero = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return {"values": tensor.int_repr(), "scale": scale, "zero": zero}


def _signs(weights: dict[str, Tensor], held: set[int]) -> tuple[Any, ...]:
    tensors = [tensor for tensor in weights.values() if tensor.numel()]
    if not tensors:
        return ()
    seen = [t.detach().reshape(-1)[0].double() for t in tensors]
    made = [t for t in tensors if id(t) not in held]
    seen += [t.detach().sum(dtype=torch.float64) for t in made]
    values = torch.stack([value.to(seen[0].device) for value in seen]).tolist()
    sums = iter(values[len(tensors) :])
    return tuple(
        (t.data_ptr(), t._version, t.dtype, first)
        if id(t) in held
        else (tuple(t.shape), t.dtype, first, next(sums))
        for t, first in zip(tensors, values, strict=False)
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
