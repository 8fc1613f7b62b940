"""What all texts of a batch begin with, run once instead of once a text."""

from itertools import takewhile

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.inject.branching import window_of
from cpool.prompter import Prompts

__all__ = ["read_once"]

# A beginning of fewer tokens is not worth a pass of its own.
SHORTEST = 16


@torch.no_grad()
def read_once(backbone: Backbone, batch: Batch) -> tuple[Batch, Prompts | None]:
    """Return the batch without what all rows begin with, and that as a prefix; or as it is.

    A hard prompt in front of texts, above all one with solved examples, is the most of each row.
    Its keys and values are the same in all of them, and what follows sees them as it would in its
    own row: scores are those of the whole rows, at a fraction of the cost. Compared are tokens, so
    nothing depends on how a tokenizer joins words.

    Args:
        backbone: a frozen decoder.
        batch: ids and mask, padded on either side.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    # In a layer with a sliding window a prefix would stay in sight for ever.
    if backbone.kind != "causal" or len(ids) < 2 or window_of(backbone) is not None:
        return batch, None
    real = torch.ones_like(ids) if mask is None else mask
    rows = [row[seen.bool()].tolist() for row, seen in zip(ids, real, strict=True)]
    columns = zip(*rows, strict=False)
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
    shared = min(shared, min(map(len, rows)) - 1)  # the last word has to be run, to be followed
    if shared < SHORTEST:
        return batch, None
    layers = dict(enumerate(backbone.cache_of(torch.tensor(rows[0][:shared]))))
    rest = [row[shared:] for row in rows]
    width = max(map(len, rest))
    made = {
        "input_ids": _padded(rest, width, ids),
        "attention_mask": _padded([[1] * len(row) for row in rest], width, ids, 0),
    }
    return made, Prompts(None, layers, torch.zeros((), device=ids.device), {})


def _padded(rows: list[list[int]], width: int, like: Tensor, fill: int | None = None) -> Tensor:
    """Return rows padded on the right, with the last token of each where nothing is said."""
    whole = [row + [row[-1] if fill is None else fill] * (width - len(row)) for row in rows]
    return torch.tensor(whole, dtype=like.dtype, device=like.device)
