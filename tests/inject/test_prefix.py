"""Prefixes: equal to a cache, leaving no trace, not disturbing one another, never skipped."""

import threading
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaModel, ViTConfig, ViTModel

from cpool.backbones import Backbone, wrap_model
from cpool.backbones._call import CALL, Call, Prefix, active
from cpool.errors import BackboneError
from cpool.inject import encode, prefixes
from cpool.inject.attention import prefix_attention
from cpool.inject.prefix import attention_layers
from cpool.prompter import Prompts
from tests import tiny

# Renamed in transformers 5.24.
CACHE = "cache" if "cache" in signature(LlamaModel.forward).parameters else "past_key_values"
Layers = dict[int, tuple[Tensor, Tensor]]


def some(backbone: Backbone, size: int, lengths: dict[int, int], seed: int = 0) -> Layers:
    rng = torch.Generator().manual_seed(seed)

    def draw(length: int) -> Tensor:
        shape = (size, backbone.num_kv_heads, length, backbone.head_dim)
        return torch.randn(shape, generator=rng)

    return {layer: (draw(n), draw(n)) for layer, n in lengths.items()}


def prompts(layers: Layers, tokens: Tensor | None = None) -> Prompts:
    return Prompts(tokens, layers, torch.zeros(()), {})


def trace(backbone: Backbone) -> list[Any]:
    """Return everything that a call could leave behind."""
    modules = list(backbone.plain_model.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    names = [getattr(getattr(m, "config", None), "_attn_implementation", None) for m in modules]
    return [hooks, names, [sorted(vars(m)) for m in modules]]


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_equals_a_cache_to_the_last_bit(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.padded(tiny.batch(kind, 4), 3, "right")
    layers = some(backbone, 4, dict.fromkeys(range(3), 2))
    ours = encode(backbone, batch, prompts(layers)).hidden_states[-1]
    cache = DynamicCache()
    for number, (key, value) in layers.items():
        cache.update(key.clone(), value.clone(), number)
    mask = batch["attention_mask"]
    theirs = backbone.model(
        input_ids=batch["input_ids"],
        attention_mask=torch.cat([torch.ones(4, 2).long(), mask], 1),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0) + 2,
        **{CACHE: cache},
    ).last_hidden_state
    assert torch.equal(ours[mask.bool()], theirs[mask.bool()])


def test_without_padding_the_causal_mask_is_right() -> None:
    """A later token never changes an earlier one, and every token sees the whole prefix."""
    backbone = tiny.backbone("llama")
    layers = some(backbone, 1, {0: 5})
    ids = torch.tensor([[4, 9, 12, 30]])
    whole = encode(backbone, {"input_ids": ids}, prompts(layers)).hidden_states[-1]
    for length in (1, 2, 3):
        part = encode(backbone, {"input_ids": ids[:, :length]}, prompts(layers)).hidden_states[-1]
        torch.testing.assert_close(part, whole[:, :length], rtol=0, atol=1e-5)
    first = layers[0][1].clone()
    first[:, :, -1] += 1  # the last row of the prefix, seen by the first token too
    other = encode(backbone, {"input_ids": ids}, prompts({0: (layers[0][0], first)}))
    assert (other.hidden_states[-1] - whole).abs().amax(-1).min() > 1e-3


def test_positions_start_after_the_longest_prefix() -> None:
    backbone, batch = tiny.backbone("gpt2"), tiny.batch("gpt2", 2)
    layers = some(backbone, 2, {0: 1, 2: 4})
    ours = encode(backbone, batch, prompts(layers)).hidden_states[-1]
    with prefixes(backbone, layers):
        positions = backbone.positions(batch["attention_mask"], 4)
        theirs = backbone.model(**batch, **positions, use_cache=False).last_hidden_state
    assert torch.equal(ours, theirs)


def test_tokens_of_an_encoder_keep_their_positions() -> None:
    backbone, batch = tiny.backbone("bert"), tiny.padded(tiny.batch("bert", 2), 0, "right")
    layers = some(backbone, 2, {1: 3})
    ours = encode(backbone, batch, prompts(layers)).hidden_states[-1]
    with prefixes(backbone, layers):
        theirs = backbone.model(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [k for k in tiny.KINDS if k not in tiny.NO_PREFIX])
def test_nothing_is_left_behind(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 2)
    before, plain = trace(backbone), backbone.query(batch)
    encode(backbone, batch, tiny.prompts(kind, 2, "both"), all_layers=True)
    assert trace(backbone) == before
    assert torch.equal(backbone.query(batch), plain)


class Stop(Exception):
    """Raised in the middle of a forward."""


@pytest.mark.parametrize("kind", ["vit", "beit", "bert", "llama"])
def test_nothing_is_left_behind_by_an_exception(kind: str) -> None:
    backbone, batch = tiny.KINDS[kind](), tiny.batch(kind, 2)
    plain = backbone.query(batch)
    before = trace(backbone)
    last = attention_layers(backbone)[-1]

    def stop(*_: Any) -> None:
        raise Stop

    handle = last.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        encode(backbone, batch, tiny.prompts(kind, 2, "both"), all_layers=True)
    handle.remove()
    assert trace(backbone) == before
    assert torch.equal(backbone.query(batch), plain)


def test_other_implementations_come_back() -> None:
    config = ViTConfig(**tiny._VISION, attn_implementation="eager")
    backbone = wrap_model(ViTModel(config))
    batch = tiny.batch("vit", 2)
    layers = some(backbone, 2, {1: 2})
    encode(backbone, batch, prompts(layers))
    assert backbone.model.config._attn_implementation == "eager"


def test_nested_the_inner_counts_and_a_query_has_no_prompts() -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 2)
    plain = backbone.query(batch)
    one, two = (some(backbone, 2, {0: 2}, seed) for seed in (1, 2))
    alone = [encode(backbone, batch, prompts(p)).hidden_states[-1] for p in (one, two)]
    with prefixes(backbone, one):
        inner = encode(backbone, batch, prompts(two)).hidden_states[-1]
        assert torch.equal(inner, alone[1])
        assert torch.equal(backbone.query(batch), plain)
        assert torch.equal(encode(backbone, batch, None).hidden_states[-1][:, 0], plain)
        outer = backbone.model(**batch).last_hidden_state
        assert torch.equal(outer, alone[0])


def test_overlapping_contexts_and_backbones_of_one_config() -> None:
    """Contexts that end in another order than they began, over models that share a config."""
    config = ViTConfig(**tiny._VISION)
    a, b = (wrap_model(ViTModel(config)) for _ in range(2))
    batch = tiny.batch("vit", 2)
    layers = some(a, 2, {0: 2, 2: 3})
    others = some(b, 2, {1: 4})
    plain, alone = b.query(batch), encode(b, batch, prompts(others)).hidden_states[-1]
    first, second = prefixes(a, layers), prefixes(b, others)
    first.__enter__()
    assert torch.equal(b.model(**batch).last_hidden_state[:, 0], plain)  # a's context: b is plain
    a.model(**batch)
    second.__enter__()
    assert torch.equal(b.model(**batch).last_hidden_state, alone)
    first.__exit__(None, None, None)
    assert torch.equal(b.model(**batch).last_hidden_state, alone)
    second.__exit__(None, None, None)
    assert CALL.get() is None
    assert config._attn_implementation == "sdpa"
    assert torch.equal(b.model(**batch).last_hidden_state[:, 0], plain)


def test_threads_do_not_disturb_each_other() -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 4)
    cases = [None, *(tiny.prompts("vit", 4, what, 7) for what in ("tokens", "prefix", "both"))]
    expected = [encode(backbone, batch, p).hidden_states[-1] for p in cases]
    wrong: list[int] = []
    start = threading.Barrier(len(cases))

    def work(number: int) -> None:
        start.wait()
        for _ in range(30):
            result = encode(backbone, batch, cases[number]).hidden_states[-1]
            if result.shape != expected[number].shape or not torch.equal(result, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert backbone.model.config._attn_implementation == "sdpa"


def test_a_layer_that_skips_its_prefix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, batch = tiny.KINDS["vit"](), tiny.batch("vit", 2)
    layers = some(backbone, 2, {0: 2, 1: 2})
    encode(backbone, batch, prompts(layers))
    # From now on layer 1 has no attention at all.
    forward: Callable[..., Any] = lambda hidden, *a, **k: (hidden, None)  # noqa: E731
    monkeypatch.setattr(backbone.model.layers[1].attention, "forward", forward)
    with pytest.raises(BackboneError, match=r"layer 1 \(layers\.1\.attention\)"):
        encode(backbone, batch, prompts(layers))
    with pytest.raises(BackboneError, match="skipped"), prefixes(backbone, layers):
        pass


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_layers_that_the_model_lacks(layer: int) -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 2)
    with pytest.raises(BackboneError, match=f"layers from 0 to 2 .*layer {layer}"):
        encode(backbone, batch, prompts(some(backbone, 2, {layer: 2})))


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 4, 2, 8), (2, 4, 3, 8)),  # k and v differ
        ((3, 4, 2, 8), (3, 4, 2, 8)),  # another batch
        ((2, 8, 2, 4), (2, 8, 2, 4)),  # heads and width mixed up
        ((2, 2, 32), (2, 2, 32)),  # not split into heads
    ],
)
def test_prefixes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 2)
    key, value = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(BackboneError, match=r"expected keys and values"):
        encode(backbone, batch, prompts({0: (key, value)}))


def test_grouped_heads_take_key_value_heads() -> None:
    backbone, batch = tiny.backbone("llama"), tiny.batch("llama", 2)
    assert (backbone.num_heads, backbone.num_kv_heads) == (4, 2)
    wide = torch.zeros(2, 4, 2, 8)
    with pytest.raises(BackboneError, match=r"\[B 2 N 8\]"):
        encode(backbone, batch, prompts({0: (wide, wide)}))


def test_modules_that_run_several_times() -> None:
    """ALBERT runs one attention module as every layer: each turn gets its own prefix."""
    from transformers import AlbertConfig, AlbertModel

    torch.manual_seed(0)
    config = AlbertConfig(**{**tiny._TEXT, "embedding_size": 16, "num_hidden_groups": 1})
    backbone = wrap_model(AlbertModel(config, add_pooling_layer=False), tiny.tokenizer())
    batch = tiny.batch("bert", 3)
    assert len(set(attention_layers(backbone))) == 1
    layers = some(backbone, 3, {2: 2})
    last = encode(backbone, batch, prompts(layers)).hidden_states[-1]
    first = encode(backbone, batch, prompts({0: layers[2]})).hidden_states[-1]
    plain = encode(backbone, batch, None).hidden_states[-1]
    assert (last - plain).abs().max() > 1e-3 and (last - first).abs().max() > 1e-3


def test_position_bias_is_extended() -> None:
    """Models that hand a bias over pairs to the attention (T5) get zeros for the prefix."""

    class Attention(nn.Module):
        is_causal = False

    module, q, k, v = Attention(), *torch.randn(3, 1, 2, 5, 4)
    bias, pre = torch.randn(1, 2, 5, 5), torch.randn(2, 1, 2, 3, 4)
    with active(Call(prefixes={module: [Prefix(0, pre[0], pre[1])]})):
        out, _ = prefix_attention(module, q, k, v, None, position_bias=bias)
    keys, values = torch.cat([pre[0], k], 2), torch.cat([pre[1], v], 2)
    scores = q @ keys.transpose(2, 3) / 2 + torch.cat([torch.zeros(1, 2, 5, 3), bias], 3)
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
