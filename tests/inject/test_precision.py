"""Gradients, mixed precision, half-precision models, compiled models."""

from typing import Any

import pytest
import torch
from torch import nn

from cpool.backbones import Backbone, wrap_model
from cpool.errors import BackboneError
from cpool.inject import encode
from cpool.prompter import Prompts
from tests import tiny

REACHED = [kind for kind in tiny.KINDS if kind not in tiny.NO_PREFIX]


def learnable(prompts: Prompts) -> list[torch.Tensor]:
    tensors = [prompts.tokens] if prompts.tokens is not None else []
    tensors += [tensor for pair in prompts.layers.values() for tensor in pair]
    return [tensor.requires_grad_() for tensor in tensors if tensor is not None]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_gradients_reach_prompts_and_never_weights(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.padded(tiny.batch(kind, 3), 2, "left")
    prompts = tiny.prompts(kind, 3, "tokens" if kind in tiny.NO_PREFIX else "both")
    tensors = learnable(prompts)
    encoded = encode(backbone, batch, prompts)
    loss = backbone.pool(encoded.hidden_states, encoded.mask).square().sum()
    for grad in torch.autograd.grad(loss, tensors):
        assert grad.isfinite().all() and grad.abs().amax(tuple(range(1, grad.dim()))).min() > 0
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


def test_no_graph_below_the_first_prompted_layer() -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 2)
    prompts = tiny.prompts("vit", 2, "prefix")
    prompts = prompts._replace(layers={2: prompts.layers[2]})
    learnable(prompts)
    states = encode(backbone, batch, prompts, all_layers=True).hidden_states
    assert [state.requires_grad for state in states] == [False, False, False, True]
    assert not encode(backbone, batch, None).hidden_states[-1].requires_grad


def test_gradients_equal_those_of_the_whole_graph() -> None:
    """Finite differences, in float64, through both sites at once."""
    backbone = wrap_model(tiny.model("vit"), dtype="float64")
    batch = tiny.batch("vit", 1)
    tokens = torch.randn(1, 1, tiny.WIDTH, dtype=torch.float64, requires_grad=True)
    pair = [torch.randn(1, 4, 1, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def run(tokens: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        prompts = Prompts(tokens, {1: (key, value)}, torch.zeros(()), {})
        return encode(backbone, batch, prompts).hidden_states[-1][:, 0].sum()

    assert torch.autograd.gradcheck(run, (tokens, *pair), fast_mode=True)


@pytest.mark.parametrize("kind", ["vit", "bert", "gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_model_float32_prompts(kind: str, dtype: torch.dtype) -> None:
    half = wrap_model(tiny.model(kind), dtype=dtype)
    batch, prompts = tiny.batch(kind, 3), tiny.prompts(kind, 3, "both")
    tensors = learnable(prompts)
    encoded = encode(half, batch, prompts)
    assert encoded.hidden_states[-1].dtype == dtype
    features = half.pool(encoded.hidden_states, encoded.mask)
    assert features.dtype == torch.float32 and half.query(batch).dtype == torch.float32
    exact = encode(tiny.backbone(kind), batch, prompts)
    expected = tiny.backbone(kind).pool(exact.hidden_states, exact.mask)
    assert (features - expected).abs().mean() < 0.1
    grads = torch.autograd.grad(features.sum(), tensors)
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("kind", REACHED)
def test_autocast(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 3)
    prompts = tiny.prompts(kind, 3, "both")
    tensors = learnable(prompts)
    plain = backbone.query(batch)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encode(backbone, batch, prompts)
        features = backbone.pool(encoded.hidden_states, encoded.mask)
        assert torch.equal(backbone.query(batch), plain)  # so that cached queries agree
    grads = torch.autograd.grad(features.sum(), tensors)
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in grads)


def compiled(kind: str, how: str) -> Backbone:
    backbone = wrap_model(tiny.model(kind))
    if how == "wrapped":
        backbone.model = torch.compile(backbone.model, backend="eager")
    else:
        backbone.model.compile(backend="eager")
    return backbone


@pytest.fixture
def dynamo() -> Any:
    torch._dynamo.reset()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), [("vit", "wrapped"), ("bert", "in place")])
def test_compiled(kind: str, how: str, dynamo: Any) -> None:
    backbone, plain, batch = compiled(kind, how), tiny.backbone(kind), tiny.batch(kind, 3)
    for seed in range(2):  # compiled, then from the cache of compiled code, with new prompts
        for what in ("none", "both"):
            prompts = tiny.prompts(kind, 3, what, seed)
            ours = encode(backbone, batch, prompts, all_layers=True).hidden_states
            expected = encode(plain, batch, prompts, all_layers=True).hidden_states
            for one, other in zip(ours, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        torch.testing.assert_close(backbone.query(batch), plain.query(batch), rtol=0, atol=1e-5)
    assert dynamo["stats"]["unique_graphs"] > 0


@pytest.mark.slow
def test_code_compiled_before_cpool_is_refused_not_ignored(dynamo: Any) -> None:
    """Compiled code does not look at hooks, unless it was compiled through the backbone."""
    backbone, batch = compiled("vit", "wrapped"), tiny.batch("vit", 3)
    with torch.no_grad():
        backbone.model(**batch)
        with pytest.raises(BackboneError, match="compile it anew"):
            encode(backbone, batch, tiny.prompts("vit", 3, "tokens"))


def test_moved_and_copied() -> None:
    backbone, batch = tiny.KINDS["vit"](), tiny.batch("vit", 2)
    prompts = tiny.prompts("vit", 2, "both")
    before = encode(backbone, batch, prompts).hidden_states[-1]
    assert torch.equal(encode(backbone.to("cpu"), batch, prompts).hidden_states[-1], before)
    copy = backbone.trainable_copy()
    result = encode(copy, batch, prompts).hidden_states[-1]
    torch.testing.assert_close(result, before, rtol=0, atol=1e-6)
    result.sum().backward()
    grads = [p.grad for p in copy.parameters() if p.grad is not None]
    assert grads and all(p.grad is None for p in backbone.parameters())
    assert isinstance(copy, nn.Module) and copy.requires_grad_() is copy
