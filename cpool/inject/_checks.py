"""Prompts as the injection needs them: of the right shape, one a sample."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import BackboneError
from cpool.prompter import Prompts

__all__ = ["Checked", "check_encodes", "checked", "checked_tokens", "refuse_live"]


class Checked(NamedTuple):
    """The prompts of a pass, one row a sample.

    Attributes:
        tokens: [B N D], or None.
        real: False for tokens that are padding, [B N]; None: there are none.
        layers: layer number → keys and values, each [B H N E].
        spans: layer number → the same as `real`, for layers where there is padding.
        offset: tokens of the longest prefix, or of that of each row [B 1] where they differ.
    """

    tokens: Tensor | None
    real: Tensor | None
    layers: dict[int, tuple[Tensor, Tensor]]
    spans: dict[int, Tensor]
    offset: int | Tensor

    def before(self, mask: Tensor) -> Tensor:
        """Return the mask of the tokens [B N] and, behind them, that of a text."""
        if self.tokens is None:
            return mask
        size, number = self.tokens.shape[:2]
        real = mask.new_ones(size, number) if self.real is None else self.real.to(mask)
        return torch.cat([real, mask], dim=1)


def checked(backbone: Backbone, prompts: Prompts | None, size: int) -> Checked:
    """Return the prompts of `size` samples.

    Raises:
        BackboneError: they are of another shape.
    """
    if prompts is None:
        return Checked(None, None, {}, {}, 0)
    tokens = checked_tokens(backbone, prompts.tokens, size)
    real = None
    if tokens is not None and prompts.real is not None:
        real = prompts.real.to(tokens.device).expand(size, -1)
    spans = {layer: span.expand(size, -1) for layer, span in prompts.spans.items()}
    layers, offset = _prefixes(prompts, size), _offset(prompts, size, backbone.device)
    return Checked(tokens, real, layers, spans, offset)


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


def _offset(prompts: Prompts, size: int, device: torch.device) -> int | Tensor:
    """Return how many tokens the longest prefix of a row has, or of each row where they differ."""
    plain = [key.shape[2] for n, (key, _) in prompts.layers.items() if n not in prompts.spans]
    longest = max([*plain, *(live.length for live in prompts.live.values())], default=0)
    if not prompts.spans:
        return longest
    each = [span.sum(dim=1, keepdim=True) for span in prompts.spans.values()]
    lengths = torch.stack(each).amax(dim=0).clamp(min=longest).to(device)
    return lengths.expand(size, -1)


def _prefixes(prompts: Prompts, size: int) -> dict[int, tuple[Tensor, Tensor]]:
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


def check_encodes(backbone: Backbone, layers: Collection[int]) -> None:
    """Refuse prefixes where features are read from an encoder beside which the decoder has them.

    Args:
        backbone: the model.
        layers: that have prefixes.
    """
    if layers and backbone.kind == "seq2seq":
        raise BackboneError(
            expected=f"prompt tokens in front of the text that the encoder of {backbone.name!r} "
            f"({backbone.family}) reads, for features; prefixes go into its decoder",
            got=f"prefixes on layers {sorted(layers)}",
            remedy="Use prefix_tuning, which answers in words, or a method with prompt tokens.",
        )


def refuse_live(prompts: Prompts | None) -> None:
    """Refuse prompts that are made inside a pass, where there is no such pass."""
    if prompts is not None and prompts.live:
        raise BackboneError(
            expected="prompts that are there before the pass, to score labels or to generate",
            got=f"live prefixes on layers {sorted(prompts.live)}, made inside of it",
            remedy="Use a method with prompts of its own, such as prompt_tuning.",
        )
