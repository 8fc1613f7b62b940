"""Prompt tokens beside the embeddings of the input, at one of two sites.

`hidden`: after the embedding layer, by one hook on it that lives as long as the call. The tokens
keep their positions; prompts get none, and no bias of relative positions either.
`inputs`: through `inputs_embeds`, before positions are added: prompts are positions like words.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.backbones._call import CALL, Call
from cpool.backbones.families import find
from cpool.errors import BackboneError

__all__ = ["hooked", "insert", "through_inputs"]


def insert(tensor: Tensor, piece: Tensor, at: int, dim: int = 1) -> Tensor:
    """Return `tensor` with `piece` put in before index `at` of axis `dim`.

    >>> insert(torch.tensor([[1, 4]]), torch.tensor([[2, 3]]), 1)
    tensor([[1, 2, 3, 4]])
    """
    if at == 0:
        return torch.cat([piece, tensor], dim)
    head, tail = tensor.tensor_split([at], dim)
    return torch.cat([head, piece, tail], dim)


# ---- hidden -----------------------------------------------------------------------------------


@contextmanager
def hooked(backbone: Backbone, call: Call) -> Iterator[None]:
    """Put the call's tokens after the embedding layer of every forward inside the context.

    Raises:
        BackboneError: the model has no embedding layer to hook, or did not run it.
    """
    paths = backbone.kind_of.embeddings
    module = next((m for path in paths if (m := find(backbone.plain_model, path))), None)
    if module is None:
        raise BackboneError(
            expected=f"a module {' or '.join(paths)} in {backbone.family!r}",
            got="none",
            remedy="Use prefixes, or another backbone.",
        )
    call.insert_at = backbone.insert_at
    with ExitStack() as stack:
        stack.callback(module.register_forward_hook(_token_hook).remove)
        for bias in _bias_modules(backbone):
            stack.callback(bias.register_forward_hook(_bias_hook).remove)
        yield
    if not call.inserted:
        raise BackboneError(
            expected=f"the embedding layer of {backbone.family!r} to be called through its hook",
            got="a forward that did not run it",
            remedy="If the model was compiled before cpool used it, compile it anew.",
        )


# Hooks are module-level functions that read the call they serve: compiled code knows them by
# identity, and the hook of one thread does nothing to the forward of another.


def _token_hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    call = CALL.get()
    if call is None or call.tokens is None or call.inserted:
        return None
    call.inserted = True
    return insert(output, call.tokens.to(output.dtype), call.insert_at)


def _bias_hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    call = CALL.get()
    if call is None or call.tokens is None or module in call.extended:
        return None
    call.extended.add(module)
    prompts, at = call.tokens.shape[1], call.insert_at
    if output.shape[-1] == output.shape[-2]:  # [1 heads T T], made from the image's size
        return _widen(output, prompts, at, (-2, -1))
    # [T+N T+N heads], made from the length with prompts; bias depends on the distance only, so
    # the first T rows and columns are those of the tokens alone.
    tokens = output.shape[0] - prompts
    return _widen(output[:tokens, :tokens], prompts, at, (0, 1))


def _widen(bias: Tensor, prompts: int, at: int, dims: tuple[int, int]) -> Tensor:
    for dim in dims:
        shape = list(bias.shape)
        shape[dim] = prompts
        bias = insert(bias, bias.new_zeros(shape), at, dim)
    return bias


def _bias_modules(backbone: Backbone) -> list[nn.Module]:
    name = backbone.kind_of.bias
    if name is None:
        return []
    return [
        module
        for path, module in backbone.plain_model.named_modules()
        if type(module).__name__ == name or path.split(".")[-1] == name
    ]


# ---- inputs -----------------------------------------------------------------------------------


def through_inputs(
    backbone: Backbone, inputs: dict[str, Tensor], tokens: Float[Tensor, "B N D"]
) -> dict[str, Tensor]:
    """Return inputs in which token ids have become embeddings with the prompts among them.

    The embedding module is called, not its weight read: some models scale inside it.

    Raises:
        BackboneError: prompts of another width than the token embeddings.
    """
    embeds = backbone.plain_model.get_input_embeddings()(inputs["input_ids"])
    if tokens.shape[2] != embeds.shape[2]:
        raise BackboneError(
            expected=f"prompt tokens of width {embeds.shape[2]}, as the token embeddings",
            got=f"{tokens.shape[2]}",
            remedy="Use a model whose embedding and hidden widths are equal.",
        )
    made = {"inputs_embeds": insert(embeds, tokens.to(embeds.dtype), backbone.insert_at)}
    types = inputs.get("token_type_ids")
    if types is not None:
        zeros = types.new_zeros(len(types), tokens.shape[1])
        made["token_type_ids"] = insert(types, zeros, backbone.insert_at)
    return made
