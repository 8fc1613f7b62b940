"""What a language model makes of final states, and what it keeps of tokens."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpool.errors import BackboneError

__all__ = ["cache_of", "said_of", "scaled"]


def scaled(logits: Float[Tensor, "... V"], config: Any) -> Float[Tensor, "... V"]:
    """Return logits as the model class with the head scales and caps them.

    Cohere, Granite and Gemma do, and T5, whose states are divided by √D before an embedding that
    is the input's own.

    Args:
        logits: what the output embedding gives.
        config: of the model.
    """
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    if getattr(config, "scale_decoder_outputs", False):
        logits = logits * config.hidden_size**-0.5
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if not cap else cap * torch.tanh(logits / cap)


def cache_of(
    model: Any, tokens: Int[Tensor, "1 T"] | Float[Tensor, "1 T D"]
) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of a decoder, layer by layer: [1 heads T head_dim].

    Raises:
        BackboneError: a layer that keeps something else, such as the state of a recurrence.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if tokens.is_floating_point():
        made = model(inputs_embeds=tokens, use_cache=True)
    else:
        with torch.no_grad():
            made = model(input_ids=tokens, use_cache=True)
    # transformers is giving the cache another name.
    cache = getattr(made, "cache", None) or getattr(made, "past_key_values", None)
    layers = getattr(cache, "layers", None) or [None]
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    other = {type(layer).__name__ for layer in layers if type(layer) not in plain}
    if other:
        raise BackboneError(
            expected="a decoder each of whose layers keeps keys and values of what it has read, "
            "and nothing else",
            got=f"{type(model).__name__}, which keeps {', '.join(sorted(other))}",
            remedy="Use a language model such as Llama, Qwen2 or GPT-2.",
        )
    return [(layer.keys, layer.values) for layer in layers]


def said_of(
    decoder: Any, tokens: Int[Tensor, "1 T"], read: Float[Tensor, "1 _ D"]
) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of an encoder–decoder's decoder, layer by layer.

    Args:
        decoder: of the model.
        tokens: what it says, from its start token on.
        read: the encoder's states that it looks at.
    """
    made = decoder(input_ids=tokens, encoder_hidden_states=read, use_cache=True)
    cache = getattr(made, "cache", None) or made.past_key_values
    return [(layer.keys, layer.values) for layer in cache.self_attention_cache.layers]
