"""What all rows of a batch begin with, words or a prompt, run once instead of once a row."""

from itertools import takewhile
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.errors import BackboneError
from cpool.inject._checks import checked_tokens
from cpool.inject.branching import window_of
from cpool.inject.prefix import attention_shapes
from cpool.prompter import Prompts

__all__ = ["prompt_once", "read_once"]

# A beginning of fewer tokens is not worth a pass of its own, nor a prompt that saves fewer.
SHORTEST = 16
SAVED = 32


def prompt_once(backbone: Backbone, prompts: Prompts | None, rows: int) -> Prompts | None:
    """Return a soft prompt that all rows have as the prefix that it is to them; others as they are.

    A decoder's keys and values of prompt tokens depend on nothing that follows. So one pass over
    the prompt, with gradient, and one over the rows behind it are what a pass over the prompt
    and text of each row computes, for fewer tokens: N + B·T in place of B·(N + T).

    Args:
        backbone: a frozen language model.
        prompts: of the batch; shared are tokens of a batch axis of 1 or expanded from one row.
            Without gradients equal values are enough; with them two slots that are equal by chance
            must each get their own.
        rows: B.
    """
    if prompts is None or prompts.tokens is None or prompts.layers or prompts.live:
        return prompts
    tokens = checked_tokens(backbone, prompts.tokens, rows)
    if tokens is None:
        return prompts
    length, limit = tokens.shape[1], backbone.position_limit
    if prompts.real is not None:
        return prompts  # rows have prompts of different length
    if (rows - 1) * length < SAVED or not _lasting(backbone):
        return prompts
    if limit is not None and length >= limit:
        return prompts  # no word fits behind it: who runs the rows says so
    same = tokens.stride(0) == 0
    if not same and not torch.is_grad_enabled():
        same = torch.equal(tokens, tokens[:1].expand_as(tokens))
    if not same:
        return prompts
    layers = dict(enumerate(backbone.cache_of(tokens[0])))
    return prompts._replace(tokens=None, layers=layers)


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
    if len(ids) < 2 or not _lasting(backbone):
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


_LASTING: WeakKeyDictionary[Backbone, bool] = WeakKeyDictionary()


def _lasting(backbone: Backbone) -> bool:
    """Tell whether a prefix of keys and values is to a decoder what the tokens are.

    In a sliding window it would stay in sight, a recurrent layer keeps a state beside it, and
    LongRoPE turns keys by the length of the pass.
    """
    if backbone.kind != "causal" or window_of(backbone) is not None:
        return False
    if backbone not in _LASTING:
        _LASTING[backbone] = _keeps_all(backbone)
    return _LASTING[backbone]


def _keeps_all(backbone: Backbone) -> bool:
    if "longrope" in repr(getattr(backbone.plain_model.config, "rope_parameters", None)):
        return False
    try:
        shapes = attention_shapes(backbone)
    except BackboneError:
        return False
    return backbone.kept_shapes == tuple(((1, heads, 2, width),) * 2 for heads, width in shapes)


def _padded(rows: list[list[int]], width: int, like: Tensor, fill: int | None = None) -> Tensor:
    """Return rows padded on the right, with the last token of each where nothing is said."""
    whole = [row + [row[-1] if fill is None else fill] * (width - len(row)) for row in rows]
    return torch.tensor(whole, dtype=like.dtype, device=like.device)
