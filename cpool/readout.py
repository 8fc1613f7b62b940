"""Readouts: from the hidden states of a prompted pass to one feature vector a sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.backbones.pooling import check_layers, pool_layers
from cpool.errors import BackboneError
from cpool.inject import Encoded
from cpool.language import LabelWords, score_completions, score_labels
from cpool.prompter import Prompts

__all__ = [
    "AnyReadout",
    "CompletionReadout",
    "LabelReadout",
    "LayersReadout",
    "Readout",
    "last_layers",
    "read",
    "readout_size",
    "reads_final",
    "resolve_readout",
    "scored",
]

# The score of a label that was not run: no label has one as low, and every precision of a cache of
# features holds it, where infinity is refused. The logits are −inf there.
UNSCORED = -6e4

Readout: TypeAlias = Literal["query", "cls", "prompts", "tokens"]


@dataclass(frozen=True)
class LayersReadout:
    """Several layers side by side, each pooled and brought to norm 1, divided by √(their number).

    Attributes:
        layers: numbers of hidden states, from 0 (embeddings) to L (final), or from the end.
        poolings: "cls", "mean" or both, one after the other for each layer.
    """

    layers: tuple[int, ...]
    poolings: tuple[Literal["cls", "mean"], ...] = ("mean",)


@dataclass(frozen=True)
class LabelReadout:
    """The scores of label words after the text: `log p(label | prompts, text)`, one a class.

    Attributes:
        words: of the classes seen so far.
    """

    words: LabelWords


@dataclass(frozen=True)
class CompletionReadout:
    """The score of what follows each text in a batch, and its length: [B 2], a row's own words."""


AnyReadout: TypeAlias = Readout | LayersReadout | LabelReadout | CompletionReadout


def last_layers(backbone: Backbone, share: float = 0.5) -> LayersReadout:
    """Return the readout of the last `share` of the layers: the mean over real tokens, and [CLS].

    [CLS] is read in vision models that have one; text encoders are trained on the mean. With a
    share of 0 it is the final state alone, pooled as the query is.
    """
    if not share:
        return LayersReadout((backbone.num_layers,), (backbone.pooling,))
    first = backbone.num_layers - max(1, round(backbone.num_layers * share)) + 1
    layers = tuple(range(first, backbone.num_layers + 1))
    both = backbone.kind == "vision" and backbone.has_cls
    return LayersReadout(layers, ("cls", "mean") if both else ("mean",))


def resolve_readout(readout: AnyReadout, backbone: Backbone) -> AnyReadout:
    """Return what a readout becomes on a backbone.

    In a causal model the outputs of prompts in front of the text cannot depend on the text, so
    "prompts" becomes "tokens" there.

    Raises:
        BackboneError: [CLS] is asked of a model that has none.
    """
    if isinstance(readout, LayersReadout):
        check_layers(readout.layers, backbone.num_layers)
        number = backbone.num_layers + 1
        readout = LayersReadout(tuple(i % number for i in readout.layers), readout.poolings)
    if readout == "prompts" and backbone.kind == "causal":
        return "tokens"
    if isinstance(readout, LabelReadout | CompletionReadout):
        if not backbone.has_words or not backbone.vocabulary_size:
            raise BackboneError(
                expected="a language model, which can score words after a text",
                got=f"{backbone.name} ({backbone.family}, {backbone.kind})",
                remedy="Use a language model such as Llama, GPT-2 or T5, or a method with a head.",
            )
        return readout
    wants = "cls" in readout.poolings if isinstance(readout, LayersReadout) else readout == "cls"
    if wants and not backbone.has_cls:
        raise BackboneError(
            expected="a backbone with a [CLS] token for the readout 'cls'",
            got=f"{backbone.name} ({backbone.family}), which has none",
            remedy="Choose the readout 'tokens'.",
        )
    return readout


def readout_size(readout: AnyReadout, backbone: Backbone) -> int:
    """Return F, the size of the features."""
    if isinstance(readout, LabelReadout):
        return len(readout.words.classes)
    if isinstance(readout, CompletionReadout):
        return 2
    if isinstance(readout, LayersReadout):
        return backbone.hidden_size * len(readout.layers) * len(readout.poolings)
    return backbone.query_size if readout == "query" else backbone.hidden_size


def reads_final(backbone: Backbone) -> bool:
    """Return whether the query reads the final hidden state only."""
    last = backbone.num_layers
    return all(layer % (last + 1) == last for layer in backbone.layers)


def scored(
    readout: AnyReadout,
    backbone: Backbone,
    batch: Batch,
    prompts: Prompts | None,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "B F"] | None:
    """Return the scores of words after each text, or None where a readout reads hidden states.

    Args:
        readout: how a pass becomes features.
        backbone: the model.
        batch: texts.
        prompts: theirs.
        only: the classes whose labels are worth a pass; others score `UNSCORED`. All when None.
    """
    if isinstance(readout, LabelReadout):
        words = readout.words
        wanted = set(words.classes if only is None else only)
        columns = [column for column, c in enumerate(words.classes) if c in wanted]
        trie = words.trie_of([words.classes[column] for column in columns])
        scores = score_labels(backbone, batch, prompts, trie)
        if len(columns) == len(words.classes):
            return scores
        whole = scores.new_full((len(scores), len(words.classes)), UNSCORED)
        return whole.index_copy(1, torch.tensor(columns, device=scores.device), scores)
    if isinstance(readout, CompletionReadout):
        return score_completions(backbone, batch, prompts)
    return None


def read(readout: AnyReadout, backbone: Backbone, encoded: Encoded) -> Float[Tensor, "B F"]:
    """Return one feature vector a sample.

    Args:
        readout: "query": pooled as the backbone's query is (same layers, pooling and norm);
            "cls": the [CLS] output; "prompts": mean of the prompts' outputs (L2P);
            "tokens": mean over real tokens, neither prompts nor padding; or several layers.
        backbone: the model that made `encoded`.
        encoded: the hidden states, the mask of real tokens, and where the prompts are.
    """
    if isinstance(readout, LabelReadout | CompletionReadout):
        raise BackboneError(
            expected="a readout of hidden states",
            got="one of words, which are run with the text",
            remedy="Use `scored`.",
        )
    if readout == "query":
        return backbone.pool(encoded.hidden_states, encoded.mask)
    if isinstance(readout, LayersReadout):
        states = [encoded.hidden_states[i] for i in readout.layers]
        pooled = [pool_layers(states, encoded.mask, how, True) for how in readout.poolings]
        # Each is of norm 1, all its layers together; features of several poolings, too.
        return torch.cat(pooled, dim=1).div(len(pooled) ** 0.5)
    last = encoded.hidden_states[-1]
    if readout == "cls":
        return last[:, 0]
    if readout == "prompts" and encoded.prompts.stop > encoded.prompts.start:
        if encoded.real is None:
            return last[:, encoded.prompts].mean(dim=1)
        last, real = last[:, encoded.prompts], encoded.real
    else:
        real = encoded.mask
    weight = real.to(last.dtype).unsqueeze(-1)
    return (last * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
