"""Putting prompts into a model without forking it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch
from cpool.backbones.pooling import pool_layers
from cpool.errors import BackboneError
from cpool.inject._checks import check_encodes, checked
from cpool.inject.branching import branched
from cpool.inject.embedding import hooked, insert, through_inputs
from cpool.inject.prefix import prefixes
from cpool.inject.start import started
from cpool.prompter import Prompts

__all__ = ["Encoded", "arranged", "branched", "encode", "masks_prompts", "prefixes", "rows_of"]


class Encoded(NamedTuple):
    """Hidden states of a prompted forward.

    Attributes:
        hidden_states: the final state [B T+N D] alone; or all L+1 of them, the embeddings (with
            prompts) first and the final state last.
        mask: True for real tokens, False for prompts and padding, [B T+N]; a start token that
            prompts stand behind is one of the prompts.
        prompts: the rows of the prompt tokens, an empty slice when there are none.
        real: False for those that are padding, [B N]; None: there are none.
    """

    hidden_states: tuple[Float[Tensor, "B T D"], ...]
    mask: Bool[Tensor, "B T"]
    prompts: slice
    real: Bool[Tensor, "B N"] | None = None


def encode(
    backbone: Backbone, batch: Batch, prompts: Prompts | None, *, all_layers: bool = False
) -> Encoded:
    """Run the backbone once with prompts; gradients reach the prompts and never the weights.

    Tokens enter at the backbone's site (after [CLS] where there is one, else in front), prefixes
    in front of the keys and values of their layers. Positions of a decoder start after the prefix,
    which has none itself; when layers have prefixes of different length, after the longest. The
    tokens of an encoder keep their positions. Of an encoder–decoder it is the encoder that runs,
    which takes tokens alone.

    Args:
        backbone: the frozen model.
        batch: as `backbone.prepare` makes it; keys that the model does not take are ignored.
        prompts: tokens [B N D] and prefixes of this batch, or None. A batch axis of 1 is expanded.
        all_layers: return all hidden states, not only the final one.

    Raises:
        BackboneError: prompts that the model cannot carry, or that it silently skipped.
        DataError: inputs of a wrong shape, or longer than the model allows with the prompts.
    """
    batch, prompts = started(backbone, batch, prompts)
    _check_masks(backbone, prompts)
    inputs = backbone.model_inputs(batch)
    size = len(next(iter(inputs.values())))
    given = checked(backbone, prompts, size)
    tokens = given.tokens
    check_encodes(backbone, {*given.layers, *(() if prompts is None else prompts.live)})
    live = {} if prompts is None else _live(backbone, prompts, inputs)
    numbers = range(backbone.num_layers) if all_layers else tuple(live)
    mask = inputs.get("attention_mask")
    with ExitStack() as stack:
        call = stack.enter_context(prefixes(backbone, given.layers, live, given.spans))
        # What a cache would do to a decoder; the tokens of an encoder keep their positions.
        offset = given.offset if backbone.kind == "causal" else 0
        if tokens is not None and backbone.site == "hidden":
            call.tokens = tokens
            stack.enter_context(hooked(backbone, call))
        inputs = arranged(backbone, inputs, tokens, offset, given.real)
        states = backbone.run(inputs, numbers)
    final = states[backbone.num_layers]
    inner = (states[i] for i in numbers) if all_layers else ()
    return Encoded((*inner, final), *rows_of(backbone, mask, final, tokens), given.real)


def masks_prompts(backbone: Backbone) -> bool:
    """Tell whether rows of one pass may have prompts of different length.

    Padding is hidden from what follows it, and moves nothing: in a decoder, where positions are
    counted over what is there, and in front of the text of a T5, which looks at distances.
    """
    return backbone.kind in ("causal", "seq2seq")


def _check_masks(backbone: Backbone, prompts: Prompts | None) -> None:
    if prompts is None or masks_prompts(backbone):
        return
    if prompts.real is not None or prompts.spans:
        raise BackboneError(
            expected=f"prompts of one length in a pass of {backbone.name!r} ({backbone.family})",
            got="rows with prompts of different length",
            remedy="Run the rows of each length by themselves, as `PromptedModel` does.",
        )


def _live(
    backbone: Backbone, prompts: Prompts, inputs: Mapping[str, Tensor]
) -> dict[int, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Return what makes each live prefix from the hidden state that enters its layer.

    A live prompt is queried by that state, pooled as the backbone pools ([CLS], or the mean over
    real tokens), and no gradient flows through the query.
    """
    if prompts.live and prompts.tokens is not None:
        raise BackboneError(
            expected="live prefixes without prompt tokens beside them",
            got=f"{prompts.tokens.shape[1]} prompt tokens",
            remedy="Use a method with one kind of prompt.",
        )
    real = inputs.get("attention_mask")

    def bound(make: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Any:
        def made(state: Tensor) -> tuple[Tensor, Tensor]:
            state = state.detach()
            mask = backbone.real_tokens(real, state)
            return make(pool_layers([state], mask, backbone.pooling, False))

        return made

    return {layer: bound(live.make) for layer, live in prompts.live.items()}


def arranged(
    backbone: Backbone,
    inputs: dict[str, Tensor],
    tokens: Tensor | None,
    offset: int | Tensor,
    real: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the model's inputs with mask and positions extended for the prompt tokens.

    An exporter follows this and `rows_of`, so they ask tensors for their shape, never for `len`.
    `real` says which prompt tokens are there, all of them where it is None.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    if tokens is None:
        return {**inputs, **backbone.positions(mask, offset)}
    ones = mask.new_ones(mask.shape[0], tokens.shape[1]) if real is None else real.to(mask)
    extended = insert(mask, ones, backbone.insert_at)
    if backbone.site == "hidden":
        # Positions are counted before the hook adds the prompts, so over the tokens alone.
        return {**inputs, **backbone.positions(mask, offset), "attention_mask": extended}
    embeds = through_inputs(backbone, inputs, tokens)
    return {**embeds, "attention_mask": extended, **backbone.positions(extended, offset)}


def rows_of(
    backbone: Backbone, mask: Tensor | None, final: Tensor, tokens: Tensor | None
) -> tuple[Tensor, slice]:
    """Return the mask of real tokens and the slice of prompts, checked against what came out."""
    number, at = 0 if tokens is None else tokens.shape[1], backbone.insert_at
    if mask is None:
        mask = final.new_ones(final.shape[0], final.shape[1] - number)
    real = mask.bool()
    if number:
        real = insert(real, real.new_zeros(real.shape[0], number), at)
    if real.shape[1] != final.shape[1]:
        raise BackboneError(
            expected=f"{real.shape[1]} output rows, {number} of them prompts",
            got=f"{final.shape[1]} from {backbone.family!r}",
            remedy="This model does not keep its tokens; use another backbone.",
        )
    return real, slice(at, at + number) if number else slice(0, 0)
