"""Readouts: from the hidden states of a prompted pass to one feature vector a sample."""

from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import BackboneError
from cpool.inject import Encoded

__all__ = ["Readout", "read", "readout_size", "reads_final", "resolve_readout"]

Readout: TypeAlias = Literal["query", "cls", "prompts", "tokens"]


def resolve_readout(readout: Readout, backbone: Backbone) -> Readout:
    """Return what a readout becomes on a backbone.

    In a causal model the outputs of prompts in front of the text cannot depend on the text, so
    "prompts" becomes "tokens" there.

    Raises:
        BackboneError: [CLS] is asked of a model that has none.
    """
    if readout == "prompts" and backbone.kind == "causal":
        return "tokens"
    if readout == "cls" and not backbone.has_cls:
        raise BackboneError(
            expected="a backbone with a [CLS] token for the readout 'cls'",
            got=f"{backbone.name} ({backbone.family}), which has none",
            remedy="Choose the readout 'tokens'.",
        )
    return readout


def readout_size(readout: Readout, backbone: Backbone) -> int:
    """Return F, the size of the features."""
    return backbone.query_size if readout == "query" else backbone.hidden_size


def reads_final(backbone: Backbone) -> bool:
    """Return whether the query reads the final hidden state only."""
    last = backbone.num_layers
    return all(layer % (last + 1) == last for layer in backbone.layers)


def read(readout: Readout, backbone: Backbone, encoded: Encoded) -> Float[Tensor, "B F"]:
    """Return one feature vector a sample.

    Args:
        readout: "query": pooled as the backbone's query is (same layers, pooling and norm);
            "cls": the [CLS] output; "prompts": mean of the prompts' outputs (L2P);
            "tokens": mean over real tokens, neither prompts nor padding.
        backbone: the model that made `encoded`.
        encoded: the hidden states, the mask of real tokens, and where the prompts are.
    """
    if readout == "query":
        return backbone.pool(encoded.hidden_states, encoded.mask)
    last = encoded.hidden_states[-1]
    if readout == "cls":
        return last[:, 0]
    if readout == "prompts":
        return last[:, encoded.prompts].mean(dim=1)
    weight = encoded.mask.to(last.dtype).unsqueeze(-1)
    return (last * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
