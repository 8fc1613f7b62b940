"""One pass of the frozen model with fixed prompts, as an exporter can follow it.

It is `inject.encode` and `readout.read` with nothing that looks at values or at the length of a
tensor as a Python number: an exporter would take both for constants. The tests hold the two equal.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.backbones._states import compiled
from cpool.backbones.pooling import Pooling, pool_layers
from cpool.errors import BackboneError
from cpool.inject import Encoded, arranged, prefixes, rows_of
from cpool.inject.embedding import hooked
from cpool.inject.prefix import attention_layers
from cpool.prompter import Prompts
from cpool.readout import AnyReadout, CompletionReadout, LabelReadout, LayersReadout, read

__all__ = ["FixedPass", "refuse_words"]


def refuse_words(readout: AnyReadout) -> None:
    """Refuse readouts that answer with words: labels branch off a text, and share its keys.

    Raises:
        BackboneError: such a readout.
    """
    if isinstance(readout, LabelReadout | CompletionReadout):
        raise BackboneError(
            expected="a method that reads hidden states, to be run as one pass",
            got="one that scores words after each text",
            remedy="Serve it with transformers (CpoolForCausalLM), or use a method with a head.",
        )


class FixedPass(nn.Module):
    """From model inputs to features [B F], every sample under the same prompts.

    Args:
        backbone: the frozen model.
        readout: how hidden states become features.
        prompts: a batch of 1, or None.

    Raises:
        BackboneError: a compiled model, or a readout of words.
    """

    def __init__(self, backbone: Backbone, readout: AnyReadout, prompts: Prompts | None) -> None:
        super().__init__()
        refuse_words(readout)
        if compiled(backbone.model):
            raise BackboneError(
                expected="a model that an exporter can read",
                got=f"{backbone.name!r}, which torch.compile has changed",
                remedy="Load it anew, and export before compiling.",
            )
        # The model alone is a part of the program: no output embedding, no decoder.
        self.model, self._frozen, self.readout = backbone.plain_model, (backbone,), readout
        self.layers = () if prompts is None else tuple(sorted(prompts.layers))
        self.tokens: Tensor | None
        tokens = None if prompts is None else prompts.tokens
        self.register_buffer("tokens", None if tokens is None else _own(tokens))
        for layer in self.layers:
            assert prompts is not None
            key, value = prompts.layers[layer]
            self.register_buffer(f"key_{layer}", _own(key))
            self.register_buffer(f"value_{layer}", _own(value))
        if self.layers:
            attention_layers(backbone)  # found by a forward of its own, before any tracing

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._frozen[0]

    @property
    def length(self) -> int:
        """How many positions of the model the prompts take."""
        inside = self.tokens is not None and self.backbone.site == "inputs"
        own = self.tokens.shape[1] if inside and self.tokens is not None else 0
        return own + self.offset

    @property
    def offset(self) -> int:
        """The position of the first token: a decoder's follow the longest prefix."""
        if self.backbone.kind != "causal":
            return 0
        return max((self.get_buffer(f"key_{n}").shape[2] for n in self.layers), default=0)

    def forward(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "B F"]:
        """Run the model and read the features."""
        backbone, inputs = self.backbone, self._aligned(dict(inputs))
        size = next(iter(inputs.values())).shape[0]
        tokens, prefixed = self._expanded(size)
        numbers, mask = self._numbers(), inputs.get("attention_mask")
        with ExitStack() as stack:
            call = stack.enter_context(prefixes(backbone, prefixed))
            if tokens is not None and backbone.site == "hidden":
                call.tokens = tokens
                stack.enter_context(hooked(backbone, call))
            states = backbone.run(arranged(backbone, inputs, tokens, self.offset), numbers)
        final = states[backbone.num_layers]
        encoded = Encoded((final,), *rows_of(backbone, mask, final, tokens))
        return self._read([states[i] for i in numbers], encoded)

    def _aligned(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give pixels the model's type, and move an encoder's padding to the right."""
        backbone = self.backbone
        if backbone.kind == "vision":
            return {"pixel_values": inputs["pixel_values"].to(backbone.dtype)}
        if backbone.kind == "causal":
            return inputs
        # Where each token goes; by counting, since ONNX has no sort that keeps the order of ties.
        mask = inputs["attention_mask"]
        real, rest = mask.cumsum(1), (1 - mask).cumsum(1)
        place = torch.where(mask.bool(), real, real[:, -1:] + rest) - 1
        return {k: torch.zeros_like(v).scatter(1, place, v) for k, v in inputs.items()}

    def _expanded(
        self, size: int | torch.SymInt
    ) -> tuple[Tensor | None, dict[int, tuple[Tensor, Tensor]]]:
        prefixed = {
            layer: (
                self.get_buffer(f"key_{layer}").expand(size, -1, -1, -1),
                self.get_buffer(f"value_{layer}").expand(size, -1, -1, -1),
            )
            for layer in self.layers
        }
        tokens = None if self.tokens is None else self.tokens.expand(size, -1, -1)
        return tokens, prefixed

    def _numbers(self) -> list[int]:
        """Return which hidden states are read."""
        backbone = self.backbone
        if isinstance(self.readout, LayersReadout):
            return list(self.readout.layers)
        if self.readout != "query":
            return [backbone.num_layers]
        return [i % (backbone.num_layers + 1) for i in backbone.layers]

    def _read(self, states: Sequence[Tensor], encoded: Encoded) -> Tensor:
        backbone, readout = self.backbone, self.readout
        if isinstance(readout, LayersReadout):
            parts = [_pooled(states, encoded.mask, how, True) for how in readout.poolings]
            return torch.cat(parts, dim=1).div(len(parts) ** 0.5)
        if readout == "query":
            return _pooled(states, encoded.mask, backbone.pooling, backbone.normalize)
        return read(readout, backbone, encoded)


def _own(part: Tensor) -> Tensor:
    """Return a copy: an exporter packs what a tensor is a part of, and doubts that it is whole."""
    return part.clone(memory_format=torch.contiguous_format)


def _pooled(
    states: Sequence[Float[Tensor, "B T D"]],
    mask: Bool[Tensor, "B T"],
    pooling: Pooling,
    normalize: bool,
) -> Tensor:
    if pooling == "cls":  # the first token, once padding is on the right: a mean over it alone
        states, mask = [state[:, :1] for state in states], mask[:, :1]
    return pool_layers(states, mask, "mean", normalize)
