"""The probability that a language model gives each label after a text, all in one pass."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.inject import branched
from cpool.inject.start import started
from cpool.language.decoding import decoded
from cpool.language.sharing import prompt_once, read_once
from cpool.language.trie import LabelTrie
from cpool.prompter import Prompts

__all__ = ["score_labels"]

# Numbers of one block of word logits: 256 MB of float32.
BLOCK = 2**26


def score_labels(
    backbone: Backbone, batch: Batch, prompts: Prompts | None, trie: LabelTrie
) -> Float[Tensor, "B C"]:
    """Return `log p(label | prompts, text) = Σ_i log p(token_i | prompts, text, token_<i)`.

    The text is run once. The labels' tokens follow it in the same row, or in one row of an
    encoder–decoder's decoder, each seeing the prompts, the text and what stands above it in the
    trie, at the position that it would have alone: so a score is what the label has by itself, and
    C labels do not cost C passes. Gradients reach the prompts. A prompt that all rows have is run
    once for all of them (`prompt_once`); so is, where there are neither prompts nor gradients, what
    all texts begin with (`read_once`).

    Args:
        backbone: a frozen decoder or encoder–decoder with its output embedding.
        batch: as `backbone.prepare` makes it, padded on either side.
        prompts: of this batch, or None.
        trie: the labels.

    Raises:
        BackboneError: no language model, or one without its output embedding.
        DataError: text, prompts and the longest label exceed the positions of the model.
    """
    if prompts is None and not torch.is_grad_enabled():
        batch, prompts = read_once(backbone, batch)
    batch, prompts = started(backbone, batch, prompts)
    prompts = prompt_once(backbone, prompts, len(batch["input_ids"]))
    run = decoded if backbone.kind == "seq2seq" else branched
    root, nodes = run(backbone, batch, prompts, trie.tokens, trie.ancestors(), trie.depths)
    states = torch.cat([root[:, None], nodes], dim=1)
    by_node: dict[int, list[int]] = {}
    for edge, (parent, _) in enumerate(trie.edges):
        by_node.setdefault(parent + 1, []).append(edge)
    order = [edge for node in by_node for edge in by_node[node]]
    scores: list[Tensor] = []
    todo = list(by_node)
    vocabulary = backbone.vocabulary_size
    step = max(1, BLOCK // (len(states) * vocabulary))
    for start in range(0, len(todo), step):
        part = todo[start : start + step]
        index = [k for k, node in enumerate(part) for _ in by_node[node]]
        words = [trie.edges[edge][1] for node in part for edge in by_node[node]]
        place = torch.tensor(index, device=states.device), torch.tensor(words, device=states.device)

        def predicted(rows: Tensor, at: Tensor, word: Tensor) -> Tensor:
            logits = backbone.word_logits(rows).float()
            # Of each node only some words are asked for, so the whole table is never normalised.
            return logits[:, at, word] - logits.logsumexp(dim=-1)[:, at]

        rows = states[:, part]
        if len(todo) > step and torch.is_grad_enabled() and rows.requires_grad:
            scores.append(checkpoint(predicted, rows, *place, use_reentrant=False))
        else:
            scores.append(predicted(rows, *place))
    member = trie.membership()[order].to(states.device)
    # Under mixed precision a product would be in half of it, where near scores are the same.
    with torch.autocast(states.device.type, enabled=False):
        return torch.cat(scores, dim=1).float() @ member
