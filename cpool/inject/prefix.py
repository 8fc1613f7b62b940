"""Prefixes: keys and values in front of a layer's own, through one registered attention function.

`transformers` lets a model look its attention up by name at every call. While a context of
`prefixes` is open, the configs of the model name the function of attention.py; it puts the
prefixes of this call in front of the projected keys and values, extends the mask, and hands over
to PyTorch's scaled dot-product attention. Nothing of the model is copied or replaced, and when the
last context closes the configs name what they named before. Of an encoder–decoder that is the
self-attention of its decoder, as in prefix tuning of a T5.

Prefix keys enter as they are, without rotation or position. A prefix is visible to every token,
also in layers with a sliding window.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.backbones._call import Call, Prefix, Seen, active
from cpool.errors import BackboneError
from cpool.inject.distance import makers, noting_past

__all__ = ["attention_layers", "attention_shapes", "prefixes", "resumed"]

Layers = Mapping[int, tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H N E"]]]
# Made when its layer runs, from the hidden state [B T D] that enters it.
Live = Mapping[int, Callable[[Tensor], tuple[Tensor, Tensor]]]


# ---- which module is which layer --------------------------------------------------------------

_RECORDED: WeakKeyDictionary[Backbone, tuple[Seen, ...]] = WeakKeyDictionary()


def attention_layers(backbone: Backbone) -> tuple[nn.Module, ...]:
    """Return the attention modules of a backbone in layer order, found by one tiny forward.

    Of an encoder–decoder those with which its decoder looks at its own words.

    Raises:
        BackboneError: the attention of this model cannot be reached (MPNet, DeBERTa), or the
            decoder of an encoder–decoder was not loaded.
    """
    return tuple(seen.module for seen in _record(backbone))


def attention_shapes(backbone: Backbone) -> tuple[tuple[int, int], ...]:
    """Return the number of key-value heads and their width of each layer, in layer order.

    Raises:
        BackboneError: as `attention_layers`.
    """
    return tuple((seen.heads, seen.head_dim) for seen in _record(backbone))


def _record(backbone: Backbone) -> tuple[Seen, ...]:
    if backbone not in _RECORDED:
        with torch.no_grad(), _switched(backbone), active(Call(recorder=[])) as call:
            _run_once(backbone)
        seen = tuple(call.recorder or ())
        if backbone.kind == "seq2seq":  # its decoder looks at the encoder's states, too
            seen = tuple(one for one in seen if getattr(one.module, "is_causal", False))
        if len(seen) != backbone.prefix_layers:
            raise BackboneError(
                expected=f"{backbone.prefix_layers} layers whose attention goes through the "
                "attention interface of transformers, so that prefixes can be put in",
                got=f"{len(seen)} of them in {backbone.family!r}",
                remedy="Use a method with embedding prompts, or another backbone.",
            )
        _RECORDED[backbone] = seen
    return _RECORDED[backbone]


def _run_once(backbone: Backbone) -> None:
    # .forward, not a call: compiled code would be specialised to the recording.
    if backbone.kind != "seq2seq":
        backbone.plain_model.forward(**backbone.model_inputs(backbone.smallest_batch()))
        return
    word = torch.zeros(1, 1, dtype=torch.int64, device=backbone.device)
    state = torch.zeros(1, 1, backbone.hidden_size, dtype=backbone.dtype, device=backbone.device)
    backbone.prefix_model.forward(input_ids=word, encoder_hidden_states=state, use_cache=False)


# ---- switching the implementation, counted so that overlapping contexts do not disturb ---------

_LOCK = Lock()
_COUNTS: dict[int, list[Any]] = {}  # id of a config → [config, implementation before, contexts]


@contextmanager
def _switched(backbone: Backbone) -> Iterator[None]:
    from cpool.inject.attention import NAME  # registers it; a model is here, so transformers is

    configs = _configs(backbone)
    with _LOCK:
        for config in configs:
            entry = _COUNTS.setdefault(
                id(config), [config, config._attn_implementation_internal, 0]
            )
            entry[2] += 1
            config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        with _LOCK:
            for config in configs:
                entry = _COUNTS[id(config)]
                entry[2] -= 1
                if not entry[2]:
                    config._attn_implementation_internal = entry[1]
                    del _COUNTS[id(config)]


_CONFIGS: WeakKeyDictionary[Backbone, list[Any]] = WeakKeyDictionary()


def _configs(backbone: Backbone) -> list[Any]:
    if backbone not in _CONFIGS:
        found = {
            id(config): config
            for module in backbone.prefix_model.modules()
            if hasattr(config := getattr(module, "config", None), "_attn_implementation_internal")
        }
        _CONFIGS[backbone] = list(found.values())
    return _CONFIGS[backbone]


# ---- the context ------------------------------------------------------------------------------


@contextmanager
def prefixes(
    backbone: Backbone,
    layers: Layers,
    live: Live | None = None,
    spans: Mapping[int, Bool[Tensor, "B _"]] | None = None,
) -> Iterator[Call]:
    """Put prefixes into some layers of a backbone for the calls made inside this context.

    Other backbones, other threads and what runs after the context are not touched, also when it
    ends by an exception. In a context inside a context, the inner one counts.

    Args:
        backbone: the model.
        layers: layer number → (keys, values), each [B H N E] with H key-value heads of width E; of
            an encoder–decoder the numbers are those of its decoder.
        live: layer number → what makes them from the hidden state [B T D] that enters the layer;
            that state must be among those that the forward captures.
        spans: layer number → False where its prefix is padding, if rows differ.

    Raises:
        BackboneError: a layer or shape that the model does not have, a model whose attention
            cannot be reached, or a layer that did not use its prefix.
    """
    wanted = {*layers, *(live or {})}
    seen = _record(backbone) if wanted else ()
    call = Call(prefixes=_by_module(backbone, layers, live or {}, seen, spans or {}))
    with ExitStack() as stack:
        stack.enter_context(active(call))
        if wanted:
            stack.enter_context(_switched(backbone))
            if backbone.kind == "seq2seq":
                stack.enter_context(noting_past(backbone.prefix_model))
        yield call
    skipped = sorted(wanted - call.consumed)
    if skipped:
        names = {module: name for name, module in backbone.prefix_model.named_modules()}
        raise BackboneError(
            expected=f"layer {skipped[0]} ({names.get(seen[skipped[0]].module)}) to use its prefix",
            got=f"layers {skipped} of {backbone.family!r} that skipped it",
            remedy="Call the backbone inside the context, or use other layers.",
        )


@contextmanager
def resumed(backbone: Backbone, call: Call, turns: Mapping[nn.Module, int]) -> Iterator[None]:
    """Make a call that has ended the current one, for a layer that is run again after its pass.

    Args:
        backbone: the model.
        call: of the pass.
        turns: how often each module had run before the layer did.
    """
    again = replace(call, turns={**turns}, ended=False)
    with active(again), _switched(backbone) if call.prefixes else nullcontext():
        yield


def _by_module(
    backbone: Backbone,
    layers: Layers,
    live: Live,
    seen: tuple[Seen, ...],
    spans: Mapping[int, Tensor],
) -> dict[nn.Module, list[Prefix]]:
    for number in (*layers, *live):
        if not 0 <= number < backbone.prefix_layers or (number in layers and number in live):
            raise BackboneError(
                expected=f"layers from 0 to {backbone.prefix_layers - 1} of {backbone.family!r}, "
                "each with a prefix or with a live one",
                got=f"a prefix for layer {number}",
                remedy="Choose layers that the model has, each once.",
            )
    for number, pair in layers.items():
        _check(backbone, number, pair, seen)
    result: dict[nn.Module, list[Prefix]] = {seen[n].module: [] for n in (*layers, *live)}
    bias = makers([one.module for one in seen])
    for number, (module, _, _) in enumerate(seen):
        if module in result:  # also the turns without a prefix of a module that runs several times
            made = live.get(number)
            checked = None if made is None else _checked(backbone, number, made, seen)
            pair, real = layers.get(number, _EMPTY), spans.get(number)
            result[module].append(Prefix(number, *pair, checked, real, bias[number]))
    return result


def _checked(
    backbone: Backbone,
    number: int,
    make: Callable[[Tensor], tuple[Tensor, Tensor]],
    seen: tuple[Seen, ...],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def made(state: Tensor) -> tuple[Tensor, Tensor]:
        pair = make(state)
        _check(backbone, number, pair, seen)
        return pair

    return made


def _check(
    backbone: Backbone, number: int, pair: tuple[Tensor, Tensor], seen: tuple[Seen, ...]
) -> None:
    heads, width = seen[number].heads, seen[number].head_dim
    for tensor in pair:
        if tensor.dim() != 4 or tensor.shape[1::2] != (heads, width):
            raise BackboneError(
                expected=f"keys and values [B {heads} N {width}] for layer {number} of "
                f"{backbone.family!r}",
                got=f"{tuple(tensor.shape)}",
                remedy="Split the prompt into the model's key-value heads.",
            )


_EMPTY = (torch.empty(1, 1, 0, 1), torch.empty(1, 1, 0, 1))
