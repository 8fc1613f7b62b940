"""Prompts as the injection needs them: of the right shape, one a sample."""

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import BackboneError
from cpool.prompter import Prompts

__all__ = [
    "checked_prefixes",
    "checked_tokens",
    "prefix_lengths",
    "prefix_spans",
    "refuse_live",
    "token_mask",
]


def checked_tokens(backbone: Backbone, tokens: Tensor | None, size: int) -> Tensor | None:
    """Return prompt tokens [B N D] on the backbone's device; None where there are none."""
    if tokens is None:
        return None
    shape = tuple(tokens.shape)
    if len(shape) != 3 or shape[0] not in {1, size} or shape[2] != backbone.hidden_size:
        raise BackboneError(
            expected=f"prompt tokens [{size} N {backbone.hidden_size}] for {backbone.name!r}",
            got=f"{shape}",
            remedy="Make the pool with width=backbone.hidden_size and gather once a sample.",
        )
    return tokens.to(backbone.device).expand(size, -1, -1) if shape[1] else None


def prefix_spans(prompts: Prompts | None, size: int) -> dict[int, Tensor]:
    """Return where prefixes are padding, a mask [B N] a layer, for layers where there is some."""
    found = {} if prompts is None else prompts.spans
    return {layer: span.expand(size, -1) for layer, span in found.items()}


def token_mask(prompts: Prompts | None, tokens: Tensor, size: int) -> Tensor:
    """Return which prompt tokens [B N] are there; the others are padding."""
    if prompts is None or prompts.real is None:
        return tokens.new_ones(size, tokens.shape[1], dtype=torch.bool)
    return prompts.real.to(tokens.device).expand(size, -1)


def prefix_lengths(prompts: Prompts | None, size: int, device: torch.device) -> int | Tensor:
    """Return how many tokens the longest prefix of a row has, or of each row where they differ."""
    if prompts is None:
        return 0
    plain = [key.shape[2] for n, (key, _) in prompts.layers.items() if n not in prompts.spans]
    longest = max([*plain, *(live.length for live in prompts.live.values())], default=0)
    if not prompts.spans:
        return longest
    each = [span.sum(dim=1, keepdim=True) for span in prompts.spans.values()]
    lengths = torch.stack(each).amax(dim=0).clamp(min=longest).to(device)
    return lengths.expand(size, -1)


def checked_prefixes(prompts: Prompts, size: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Return the prefixes of each layer, one a sample."""
    result = {}
    for number, (key, value) in prompts.layers.items():
        if key.shape != value.shape or key.dim() != 4 or key.shape[0] not in {1, size}:
            raise BackboneError(
                expected=f"keys and values of one shape [{size} H N E] for layer {number}",
                got=f"{tuple(key.shape)} and {tuple(value.shape)}",
                remedy="Gather both once a sample.",
            )
        result[number] = (key.expand(size, -1, -1, -1), value.expand(size, -1, -1, -1))
    return result


def refuse_live(prompts: Prompts | None) -> None:
    """Refuse prompts that are made inside a pass, where there is no such pass."""
    if prompts is not None and prompts.live:
        raise BackboneError(
            expected="prompts that are there before the pass, to score labels or to generate",
            got=f"live prefixes on layers {sorted(prompts.live)}, made inside of it",
            remedy="Use a method with prompts of its own, such as prompt_tuning.",
        )
