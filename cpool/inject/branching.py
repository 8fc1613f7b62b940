"""One pass over a text and a tree of continuations: what they share is run once."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.errors import BackboneError, DataError
from cpool.inject._checks import checked, refuse_live
from cpool.inject.prefix import prefixes
from cpool.inject.start import started
from cpool.prompter import Prompts

__all__ = ["branched", "window_of"]


def branched(
    backbone: Backbone,
    batch: Batch,
    prompts: Prompts | None,
    tokens: Sequence[int],
    ancestors: Bool[Tensor, "K K"],
    depths: Sequence[int],
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B K D"]]:
    """Run a decoder over prompts, text and K branching tokens, as if each branch were alone.

    Args:
        backbone: a frozen decoder.
        batch: as `backbone.prepare` makes it, padded on either side.
        prompts: of this batch, or None.
        tokens: ids of the branching tokens, the same for every row.
        ancestors: whether the token of a row sees that of a column; itself included.
        depths: how many branching tokens stand before each in its branch.

    Returns:
        The final state of each text's last token, and those of the branching tokens.

    Raises:
        BackboneError: no decoder, one that counts its positions by itself, or one in which a token
            reaches those after it by other ways than attention.
        DataError: more positions than the model has.
    """
    refuse_live(prompts)
    _check_attends(backbone)
    batch, prompts = started(backbone, batch, prompts)
    inputs = backbone.model_inputs(batch)
    size = len(inputs["input_ids"])
    given = checked(backbone, prompts, size)
    embed = backbone.plain_model.get_input_embeddings()
    ids = torch.tensor(tokens, dtype=torch.int64, device=backbone.device)
    parts = [embed(inputs["input_ids"]), embed(ids).expand(size, -1, -1)]
    mask = inputs.get("attention_mask")
    real = given.before(torch.ones_like(inputs["input_ids"]) if mask is None else mask)
    if given.tokens is not None:
        parts.insert(0, given.tokens.to(parts[0].dtype))
    place = _positions(backbone, real, depths, given.offset)
    _check_window(backbone, int(place.max()) + 1)
    allowed = _allowed(real.bool(), ancestors.to(backbone.device))
    # 0 adds nothing; a number, not −∞, since rows of padding may see nothing at all.
    hidden = torch.zeros(allowed.shape, dtype=backbone.dtype, device=backbone.device)
    hidden = hidden.masked_fill(~allowed, torch.finfo(backbone.dtype).min)
    with prefixes(backbone, given.layers, spans=given.spans):
        states = backbone.run(
            {
                "inputs_embeds": torch.cat(parts, dim=1),
                "attention_mask": hidden[:, None],
                "position_ids": place,
            }
        )
    final = states[backbone.num_layers]
    width = real.shape[1]
    last = width - 1 - real.flip(1).argmax(dim=1)
    return final[torch.arange(size, device=final.device), last], final[:, width:]


def window_of(backbone: Backbone) -> int | None:
    """Return how many tokens a layer with a sliding window sees; None where no layer has one."""
    config = backbone.plain_model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    used = getattr(config, "use_sliding_window", True)
    if not window or not used or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)


def _check_attends(backbone: Backbone) -> None:
    """Refuse layers with a recurrence, which would carry the words of one branch into the next."""
    if backbone.kind == "causal" and backbone.kept_shapes is None:
        raise BackboneError(
            expected="a decoder whose layers all attend, for labels that branch off a text",
            got=f"{backbone.name!r} ({backbone.family}), a layer of which keeps a state",
            remedy='Learn words: PromptTuning(answers="completions"), or use Llama, Qwen2, GPT-2.',
        )


def _check_window(backbone: Backbone, length: int) -> None:
    """Refuse rows beyond a sliding window, which a mask of one's own would switch off."""
    window = window_of(backbone)
    if window is not None and length > window:
        raise DataError(
            expected=f"at most {window} tokens of text, prompts and label, the sliding window of "
            f"{backbone.name!r}",
            got=f"{length}",
            remedy="Cut the texts, or shorten the template and the examples in it.",
        )


def _positions(
    backbone: Backbone, real: Tensor, depths: Sequence[int], offset: int | Tensor
) -> Tensor:
    longest = max(depths, default=-1) + 1
    room = torch.cat([real, real.new_ones(len(real), longest)], dim=1)
    counted = backbone.positions(room, offset).get("position_ids")
    if backbone.kind != "causal" or counted is None:
        raise BackboneError(
            expected="a decoder whose positions can be given, for labels that branch off a text",
            got=f"{backbone.name!r} ({backbone.family}, {backbone.kind})",
            remedy="Use a language model such as Llama, Qwen2 or GPT-2.",
        )
    after = real.sum(dim=1, keepdim=True) + offset
    depth = torch.tensor(depths, dtype=counted.dtype, device=counted.device)
    return torch.cat([counted[:, : real.shape[1]], after + depth], dim=1)


def _allowed(
    real: Bool[Tensor, "B S"], ancestors: Bool[Tensor, "K K"]
) -> Bool[Tensor, "B S+K S+K"]:
    """Return who sees whom: the text what came before, a branch the text and its own past."""
    size, width = real.shape
    number = len(ancestors)
    allowed = real.new_zeros(size, width + number, width + number)
    causal = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    allowed[:, :width, :width] = causal & real[:, None]
    allowed[:, width:, :width] = real[:, None]
    allowed[:, width:, width:] = ancestors
    return allowed
