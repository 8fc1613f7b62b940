"""The start token of a text, where prompts stand behind it as the words of a hard prompt do.

Tokenizers such as Llama's begin every text with a start token, so a hard prompt is read as start,
prompt, text. Here prompts come first: so where they shall stand behind it, the start token comes in
with the prompts, and the text's own is hidden as padding is. Nothing moves in the rows, and what
attends, counts positions or branches off a text needs to know nothing of it.
"""

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.prompter import Prompts

__all__ = ["hidden_start", "start_values", "started"]


def started(
    backbone: Backbone, batch: Batch, prompts: Prompts | None
) -> tuple[Batch, Prompts | None]:
    """Return a batch and its prompts as they are run, the start token in front of the prompts.

    Rows that begin without one, and prompts that stand in front of it, stay as they are.

    Args:
        backbone: that will run them.
        batch: as `backbone.prepare` makes it, padded on either side.
        prompts: of this batch, or None.
    """
    if prompts is None or not prompts.after_start:
        return batch, prompts
    prompts = prompts._replace(after_start=False)
    hidden = hidden_start(backbone, batch)
    if hidden is None or not bool(hidden.any()):
        return batch, prompts
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    made = {**batch, "attention_mask": mask.masked_fill(hidden, 0)}
    has = hidden.any(dim=1).to(backbone.device)
    every = bool(has.all())
    if prompts.layers:
        return made, _in_layers(backbone, prompts, has, every)
    return made, _as_token(backbone, prompts, has, every)


def hidden_start(backbone: Backbone, batch: Batch) -> Bool[Tensor, "B T"] | None:
    """Return where the start token of each row is, if the tokenizer puts one there; else None."""
    start, ids = backbone.start_token, batch.get("input_ids")
    if start is None or ids is None:
        return None
    mask = batch.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    first = real & (real.cumsum(dim=1) == 1)
    return first & (ids == start)


def _as_token(
    backbone: Backbone, prompts: Prompts, has: Bool[Tensor, " B"], every: bool
) -> Prompts:
    """Return prompts whose tokens begin with the start token, in rows that have one."""
    size, own = len(has), _embedded(backbone)
    tokens = prompts.tokens
    if tokens is None:
        joined = own
    else:
        tokens = _once(tokens.to(backbone.device))
        joined = torch.cat([own.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
    real = prompts.real
    if not every or real is not None:
        real = _behind(has, real, joined.shape[1] - 1)
    return prompts._replace(tokens=joined.expand(size, -1, -1), real=real)


def _in_layers(
    backbone: Backbone, prompts: Prompts, has: Bool[Tensor, " B"], every: bool
) -> Prompts:
    """Return prompts whose prefix begins with the start token, on every layer."""
    size, layers, spans = len(has), {}, {}
    for number, start in enumerate(_kept(backbone)):
        pair = prompts.layers.get(number)
        made = []
        for side, own in enumerate(start):
            if pair is None:
                made.append(own.expand(size, -1, -1, -1))
                continue
            rest = _once(pair[side].to(own.device))
            joined = torch.cat([own.to(rest.dtype).expand(len(rest), -1, -1, -1), rest], dim=2)
            made.append(joined.expand(size, -1, -1, -1))
        layers[number] = made[0], made[1]
        span = prompts.spans.get(number)
        if not every or span is not None:
            spans[number] = _behind(has, span, made[0].shape[2] - 1)
    return prompts._replace(layers=layers, spans=spans)


def _once(tensor: Tensor) -> Tensor:
    """Return one row where all rows are the same one, expanded."""
    return tensor[:1] if tensor.stride(0) == 0 else tensor


def _behind(has: Bool[Tensor, " B"], real: Tensor | None, length: int) -> Bool[Tensor, "B N"]:
    """Return what is there of the prompts of each row, its start token in front."""
    if real is None:
        real = torch.ones(1, length, dtype=torch.bool)
    return torch.cat([has[:, None], real.to(has.device).expand(len(has), -1)], dim=1)


@torch.no_grad()
def start_values(backbone: Backbone, *, prefix: bool) -> Float[Tensor, "S 1 W"]:
    """Return the start token as a slot of one token: its embedding, or keys and values a layer."""
    if not prefix:
        return _embedded(backbone)
    return torch.stack([t[0].transpose(0, 1).flatten(1) for pair in _kept(backbone) for t in pair])


def _embedded(backbone: Backbone) -> Float[Tensor, "1 1 D"]:
    embed = backbone.plain_model.get_input_embeddings()
    with torch.no_grad():
        made: Tensor = embed(torch.tensor([[backbone.start_token]], device=backbone.device))
    return made


_KEPT: WeakKeyDictionary[Backbone, list[tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def _kept(backbone: Backbone) -> list[tuple[Float[Tensor, "1 H 1 E"], Float[Tensor, "1 H 1 E"]]]:
    """Return the keys and values of the start token on every layer, asked once."""
    kept = _KEPT.get(backbone)
    if kept is None or kept[0][0].device != backbone.device:
        # What is kept is used again in training, so no mode of this pass may stay in it.
        exact = torch.autocast(backbone.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), exact:
            kept = _KEPT[backbone] = backbone.cache_of(torch.tensor([backbone.start_token]))
    return kept
