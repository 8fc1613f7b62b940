"""The attention function that puts a prefix in front; importing this registers it by NAME.

Apart from prefix.py because it needs transformers at import, which is slow: `import cpool` does
without, and a prefix is only ever put into a model that transformers has made.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cpool.backbones._call import CALL, Prefix, Seen
from cpool.errors import BackboneError
from cpool.inject.distance import distance_bias

__all__ = ["NAME", "prefix_attention"]

NAME = "cpool_prefix"


def prefix_attention(
    module: nn.Module,
    query: Float[Tensor, "B heads T E"],
    key: Float[Tensor, "B H U E"],
    value: Float[Tensor, "B H U F"],
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over this call's prefix and the tokens; plain attention where there is no prefix.

    U is T, or with a cache all tokens so far.

    Raises:
        BackboneError: scores that are capped before the softmax, which the attention of torch does
            not do.
    """
    if kwargs.get("softcap") is not None:
        raise BackboneError(
            expected="attention that PyTorch's scaled dot-product attention computes, to put a "
            "prefix in",
            got=f"{type(module).__name__}, which caps its scores at {kwargs['softcap']:g}",
            remedy="Use a method with embedding prompts, such as prompt_tuning, or another "
            "backbone.",
        )
    prefix = _taken(module, key.shape[1], key.shape[3])
    if prefix is not None:
        # Beams of a row stand one after the other, and share its prefix.
        beams = key.shape[0] // prefix.key.shape[0]
        if beams > 1:
            prefix = prefix._replace(
                key=prefix.key.repeat_interleave(beams, dim=0),
                value=prefix.value.repeat_interleave(beams, dim=0),
                real=None if prefix.real is None else prefix.real.repeat_interleave(beams, dim=0),
            )
        length = prefix.key.shape[2]
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if attention_mask is None and causal and query.shape[2] > 1:
            attention_mask = _causal(query.shape[2], key.shape[2], key.device)
        if attention_mask is None and prefix.real is not None:
            attention_mask = query.new_ones(1, 1, 1, key.shape[2], dtype=torch.bool)
        attention_mask = _padded(attention_mask, length, prefix.real)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = _beside(kwargs["position_bias"], prefix)
        key = torch.cat([prefix.key.to(key), key], 2)
        value = torch.cat([prefix.value.to(value), value], 2)
    half = query.dtype
    if _slow_backward(query, key):
        query, key, value = query.float(), key.float(), value.float()
        if attention_mask is not None and attention_mask.dtype == half:
            attention_mask = attention_mask.float()
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = kwargs["position_bias"].float()
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, is_causal=is_causal, **kwargs
    )
    return result[0].to(half), None


def _slow_backward(query: Tensor, key: Tensor) -> bool:
    """Tell whether the backward pass is faster in float32: on a CPU, by four times in bfloat16."""
    wanted = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    return wanted and query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16)


# Outside of compiled code: what depends on this very call must not be traced into constants.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _taken(module: nn.Module, heads: int, head_dim: int) -> Prefix | None:
    """Return this call's prefix of a module, if any, and note that the module was here."""
    call = CALL.get()
    if call is None:
        return None
    if call.recorder is not None:
        call.recorder.append(Seen(module, heads, head_dim))
    return call.take(module)


def _beside(bias: Tensor, prefix: Prefix) -> Tensor:
    """Extend what a layer adds to scores [_ heads T U] by what it adds to those of a prefix."""
    length, call = prefix.key.shape[2], CALL.get()
    if prefix.maker is None or call is None:
        return F.pad(bias, (length, 0))
    own = distance_bias(prefix.maker, call, bias.shape[2], length, prefix.real).to(bias)
    size = max(len(own), len(bias))
    return torch.cat([own.expand(size, -1, -1, -1), bias.expand(size, -1, -1, -1)], dim=3)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    # transformers leaves the mask out where queries begin with the first key: there are more keys
    # only in a static cache, and not filled yet.
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()[None, None]


def _padded(mask: Tensor | None, length: int, real: Tensor | None) -> Tensor | None:
    """Extend a mask [B heads T U] for a prefix of this length, of which `real` [B N] is there."""
    if mask is None:
        return None
    boolean = mask.dtype == torch.bool
    if real is None:
        # True allows in a boolean mask, 0 adds nothing in a float one.
        return F.pad(mask, (length, 0), value=boolean)
    own = real[:, None, None].to(mask.device)
    if not boolean:
        own = mask.new_zeros(own.shape).masked_fill(~own, torch.finfo(mask.dtype).min)
    shape = len(own), mask.shape[1], mask.shape[2]
    return torch.cat([own.expand(*shape, -1), mask.expand(*shape, -1)], dim=3)


AttentionInterface.register(NAME, prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
