"""One pass of an encoder over a text, and one of its decoder over what may follow."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.backbones._call import CALL, Call
from cpool.backbones._inputs import Batch
from cpool.errors import BackboneError
from cpool.inject import encode, prefixes
from cpool.inject._checks import checked, refuse_live
from cpool.prompter import Prompts

__all__ = ["answered", "decoded"]


def decoded(
    backbone: Backbone,
    batch: Batch,
    prompts: Prompts | None,
    tokens: Sequence[int],
    ancestors: Bool[Tensor, "K K"],
    depths: Sequence[int],
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B K D"]]:
    """Run a T5 over prompts and text, and its decoder over K tokens, as if each branch were alone.

    The encoder runs once. The decoder runs once, too, over one row: its start token and all K, each
    seeing the start and its own past. Relative positions are those in the branch, not in the row.

    Args:
        backbone: a frozen encoder–decoder.
        batch: as `backbone.prepare` makes it, padded on either side.
        prompts: of this batch, or None.
        tokens: ids of the branching tokens, the same for every row.
        ancestors: whether the token of a row sees that of a column; itself included.
        depths: how many branching tokens stand before each in its branch.

    Returns:
        The decoder's state of the start token, and those of the branching tokens.

    Raises:
        BackboneError: prompts that the model cannot carry, or a decoder of another kind.
    """
    refuse_live(prompts)
    start = backbone.decoder_start
    states, seen = _read(backbone, batch, prompts)
    size, device = len(states), states.device
    ids = torch.tensor([start, *tokens], device=device)
    allowed = F.pad(ancestors.to(device), (1, 0, 1, 0))
    allowed[:, 0] = True
    hidden = torch.zeros(allowed.shape, dtype=states.dtype, device=device)
    hidden = hidden.masked_fill(~allowed, torch.finfo(states.dtype).min)
    place = torch.tensor([0, *(depth + 1 for depth in depths)], device=device)
    with _said_under(backbone, prompts, size) as call, _positions(backbone, call, place):
        final = _decoder(backbone)(
            input_ids=ids.expand(size, -1),
            attention_mask=hidden.expand(size, 1, -1, -1),
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            use_cache=False,
        ).last_hidden_state
    return final[:, 0], final[:, 1:]


def answered(
    backbone: Backbone, batch: Batch, prompts: Prompts | None, words: Int[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """Run a T5 over prompts and text, and its decoder over an answer a row.

    Args:
        backbone: a frozen encoder–decoder.
        batch: as `backbone.prepare` makes it, padded on either side.
        prompts: of this batch, or None.
        words: ids of the answers, filled by any word on the right.

    Returns:
        The states from which each word is predicted.

    Raises:
        BackboneError: prompts that the model cannot carry, or no token to begin with.
    """
    states, seen = _read(backbone, batch, prompts)
    first = torch.full_like(words[:, :1], backbone.decoder_start)
    with _said_under(backbone, prompts, len(words)):
        made: Tensor = _decoder(backbone)(
            input_ids=torch.cat([first, words[:, :-1]], dim=1),
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            use_cache=False,
        ).last_hidden_state
    return made


def _read(
    backbone: Backbone, batch: Batch, prompts: Prompts | None
) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T"]]:
    """Return what the encoder makes of prompt tokens and text, and the mask of both."""
    if prompts is not None:  # prefixes are the decoder's
        prompts = prompts._replace(layers={}, spans={})
    encoded = encode(backbone, batch, prompts)
    seen = encoded.mask.clone()
    seen[:, encoded.prompts] = True if encoded.real is None else encoded.real
    return encoded.hidden_states[-1], seen.long()


@contextmanager
def _said_under(backbone: Backbone, prompts: Prompts | None, rows: int) -> Iterator[Call]:
    """Put the prefixes of a batch into the decoder for the calls made inside this context."""
    given = checked(backbone, prompts, rows)
    with prefixes(backbone, given.layers, spans=given.spans) as call:
        yield call


def _decoder(backbone: Backbone) -> Any:
    assert backbone.decoder is not None  # its language model was asked for before
    return backbone.decoder


@contextmanager
def _positions(backbone: Backbone, call: Call, depths: Tensor) -> Iterator[None]:
    """Give the decoder's tokens these positions in the bias of every forward inside the context."""
    call.depths = depths
    with ExitStack() as stack:
        for path, module in _decoder(backbone).named_modules():
            if path.endswith("relative_attention_bias"):
                stack.callback(module.register_forward_hook(_depth_hook).remove)
        yield
    if not call.extended:
        raise BackboneError(
            expected="a decoder whose positions are a bias of its attention, as T5's are",
            got=f"{backbone.name!r} ({backbone.family}), which has no such bias",
            remedy="Use T5, mT5 or UMT5.",
        )


def _depth_hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    """Return the bias [T T heads] of positions in the row as that of positions in the branch."""
    call = CALL.get()
    if call is None or call.depths is None or module in call.extended:
        return None
    call.extended.add(module)
    # The bias depends on the distance alone, and the first column has it of 0, 1, … steps back.
    # What is not before a token is hidden from it, so any number will do there.
    back = (call.depths[:, None] - call.depths).clamp(min=0)
    return output[:, 0][back]
