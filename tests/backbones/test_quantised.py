"""Quantised backbones: what they are, what trains in front of them, and what is refused."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cpool.backbones import Backbone, wrap_model
from cpool.backbones.fingerprint import Fingerprint
from cpool.distil import distil
from cpool.errors import BackboneError, CheckpointError
from cpool.interop.transformers import CpoolForCausalLM
from cpool.learner import Learner
from cpool.methods import (
    NCM,
    FineTuneWords,
    LoRA,
    PrefixTuning,
    PromptRidge,
    PromptTuning,
    Ridge,
    ZeroShot,
)
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream

TEXTS = ["the cat sleeps", "a bird flies in the house", "help"]

# torch is moving its quantisation to another package, and says so where it is called.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


def by_torch(dtype: torch.dtype = torch.qint8) -> Backbone:
    """Return the tiny Llama with its linear layers quantised by torch, the head's too."""
    model = torch.ao.quantization.quantize_dynamic(
        tiny.language_model("llama"), {nn.Linear}, dtype=dtype
    )
    return wrap_model(model, tiny.tokenizer(special=False), name="quantised")


def learner(method: Any, backbone: Backbone, epochs: int = 2) -> Learner:
    model = method.build(backbone)
    return Learner(model, seed=0, device="cpu", quiet=True, epochs=epochs, batch_size=6)


def test_a_fingerprint_tells_packed_weights_and_is_computed_once(monkeypatch) -> None:
    backbone = by_torch()
    first = backbone.fingerprint
    assert first == by_torch().fingerprint
    assert (
        len({first, tiny.backbone("llama").fingerprint, by_torch(torch.float16).fingerprint}) == 3
    )
    monkeypatch.setattr(
        "cpool.backbones.fingerprint.sha256_of_tensors", lambda tensors: pytest.fail("again")
    )
    assert backbone.fingerprint == first
    monkeypatch.undo()
    layer = backbone.plain_model.layers[1].mlp.up_proj
    other = torch.quantize_per_tensor(torch.randn(layer.weight().shape), 0.01, 0, torch.qint8)
    layer.set_weight_bias(other, layer.bias())
    assert backbone.fingerprint != first


def test_the_fingerprint_of_a_plain_model_is_what_it_was() -> None:
    """Checkpoints name it: it is over names, types, shapes and values of the state alone."""
    import json

    from cpool._io import sha256_of_bytes, sha256_of_tensors
    from cpool.backbones.fingerprint import _settings

    backbone = tiny.backbone("bert")
    model = backbone.plain_model
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith(("pooler.", "head."))}
    settings = json.dumps(_settings(model.config), sort_keys=True, default=str)
    wanted = sha256_of_bytes(f"{settings}|{sha256_of_tensors(kept)}".encode())
    assert backbone.fingerprint == wanted


def test_what_trains_nothing_in_front_of_it_works(tmp_path) -> None:
    backbone = by_torch()
    for method in (ZeroShot(labels=LABELS), NCM(), Ridge(ridge=0.1)):
        run = learner(method, backbone)
        run.run(stream("llama"), tmp_path / method.name)
        again = Learner.load(tmp_path / method.name, by_torch(), device="cpu", quiet=True)
        assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    model = ZeroShot(labels=LABELS, template="my {{ text }} now", end="never").build(backbone)
    model.begin_task([0, 2])  # "cat" and "red", a token each
    ids = backbone.processor.encode("my bird now")
    with torch.no_grad():
        logits = model.eval()(model.prepare(["bird"])).logits[0]
        table = backbone.language_model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
    first = backbone.processor.convert_tokens_to_ids(["cat", "red"])
    # Its layers round states by the largest of a pass, and the head is given more of them here.
    torch.testing.assert_close(logits, table[first], atol=0.05, rtol=0.0)


def test_a_checkpoint_knows_a_quantised_output_embedding(tmp_path) -> None:
    run = learner(ZeroShot(labels=LABELS), by_torch())
    run.run(stream("llama"), tmp_path)
    other = by_torch()
    head = other.language_model.lm_head
    values = torch.quantize_per_tensor(torch.randn(head.weight().shape), 0.01, 0, torch.qint8)
    head.set_weight_bias(values, head.bias())
    with pytest.raises(CheckpointError, match="what words come from"):
        Learner.load(tmp_path, other, device="cpu", quiet=True)


@pytest.mark.parametrize(
    "method",
    [
        PromptTuning(length=2, labels=LABELS),
        PrefixTuning(length=2, labels=LABELS, init="random"),
        PromptRidge(projection=12, length=2, prompt="trained"),
    ],
)
def test_prompts_do_not_learn_from_gradients_that_layers_leave_out(method) -> None:
    run = learner(method, by_torch())
    with pytest.raises(BackboneError, match=r"with a derivative.*q_proj.*quantised by torch"):
        run.fit_task(stream("llama")[0])


def test_a_model_of_free_text_does_not_learn_from_them_either() -> None:
    method = PromptTuning(length=2, answers="completions", template="{{ text }}")
    model = CpoolForCausalLM.of(method.build(by_torch()))
    model.begin_task("birds")
    batch = {k: v[None] for k, v in model.rows(["the cat"], [" red bird"])[0].items()}
    model.train()
    with pytest.raises(BackboneError, match="layers with a derivative"):
        model(**batch)


def test_a_text_is_not_distilled_through_them_either() -> None:
    with pytest.raises(BackboneError, match="layers with a derivative"):
        distil(by_torch(), "the cat sleeps", ["a bird"], length=2, quiet=True)


def test_a_prompt_that_was_trained_before_is_used() -> None:
    plain = learner(PromptTuning(length=2, labels=LABELS, slots="shared"), tiny.backbone("llama"))
    plain.run(stream("llama"))
    model = PromptTuning(length=2, labels=LABELS, slots="shared").build(by_torch())
    model.restore(plain.model.layout())
    model.load_state_dict(copy.deepcopy(plain.model.state_dict()))
    with torch.no_grad():
        got = model.eval()(model.prepare(TEXTS)).logits
        wanted = plain.model.eval()(plain.model.prepare(TEXTS)).logits
    assert float((got - wanted).abs().max()) < 1.0  # the difference is quantisation's


@pytest.mark.parametrize("method", [LoRA(labels=LABELS, rank=2), FineTuneWords(labels=LABELS)])
def test_weights_that_are_packed_do_not_train(method) -> None:
    with pytest.raises(BackboneError, match=r"floating-point numbers.*q_proj.*of packed weights"):
        method.build(by_torch())


def test_weights_that_are_whole_numbers_do_not_train() -> None:
    """As those of bitsandbytes: frozen parameters of bytes."""
    model = tiny.language_model("llama")
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    backbone = wrap_model(model, tiny.tokenizer(special=False), name="bytes")
    for method in (LoRA(labels=LABELS, rank=2), FineTuneWords(labels=LABELS)):
        with pytest.raises(BackboneError, match=r"q_proj' of 'bytes', a Linear of int8 weights"):
            method.build(backbone)


def test_an_error_inside_a_property_is_not_reported_as_a_missing_one(monkeypatch) -> None:
    def wrong(self: Fingerprint) -> str:
        raise AttributeError("'tuple' object has no attribute 'detach'")

    monkeypatch.setattr(Fingerprint, "__call__", wrong)
    backbone = tiny.new("bert")
    with pytest.raises(AttributeError, match="'tuple' object has no attribute 'detach'"):
        backbone.fingerprint  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'fingerprints'"):
        backbone.fingerprints  # noqa: B018


def by_bitsandbytes(kind: str) -> Backbone:
    """Return the tiny Llama with linear layers of 4 or 8 bits."""
    import bitsandbytes as bnb

    model = tiny.language_model("llama")
    for module in list(model.model.modules()):
        for name, layer in list(module.named_children()):
            if not isinstance(layer, nn.Linear):
                continue
            size, weight = (layer.in_features, layer.out_features, False), layer.weight.data
            if kind == "nf4":
                new = bnb.nn.Linear4bit(*size, compute_dtype=torch.float32, quant_type="nf4")
                new.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
                # On some CPUs it packs weights again when they are first used.
                new.support_avx512bf16_for_cpu = False
            else:
                new = bnb.nn.Linear8bitLt(*size, has_fp16_weights=False)
                new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            setattr(module, name, new)
    return wrap_model(model.to("cpu"), tiny.tokenizer(special=False), name=kind)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_float32_prompts_train_before_layers_of_bitsandbytes(kind, tmp_path) -> None:
    backbone = by_bitsandbytes(kind)
    assert backbone.fingerprint == by_bitsandbytes(kind).fingerprint
    assert backbone.fingerprint != tiny.backbone("llama").fingerprint
    for method in (PromptTuning(length=2, labels=LABELS), PrefixTuning(length=2, labels=LABELS)):
        run = learner(method, backbone, epochs=6)
        before = backbone.fingerprint
        run.run(stream("llama"), tmp_path / method.name)
        assert backbone.fingerprint == before
        pool = run.model.prompter.branches["prompt"].pool
        assert all(block.dtype == torch.float32 and block.isfinite().all() for block in pool.blocks)
        assert sum(losses[-1] for losses in run.losses) < sum(losses[0] for losses in run.losses)
        again = Learner.load(tmp_path / method.name, backbone, device="cpu", quiet=True)
        assert np.array_equal(again.predict_proba(TEXTS), run.predict_proba(TEXTS))
    with pytest.raises(BackboneError, match=r"q_proj' of '(nf4|int8)', a Linear\w+ of u?int8"):
        LoRA(labels=LABELS, rank=2).build(backbone)


def test_the_gradient_of_a_prompt_is_that_of_the_weights_that_four_bits_stand_for() -> None:
    backbone = by_bitsandbytes("nf4")
    import bitsandbytes as bnb

    plain = tiny.language_model("llama")
    for name, layer in backbone.language_model.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.get_submodule(name).weight.data = weight.float()
    gradients = []
    for one in (backbone, wrap_model(plain, tiny.tokenizer(special=False))):
        torch.manual_seed(0)
        model = PromptTuning(length=3, labels=LABELS, slots="shared").build(one)
        model.begin_task(range(6))
        batch = {**model.prepare(TEXTS), "labels": torch.tensor([2, 5, 0])}
        model(batch, task=0).loss.backward()
        gradients.append(next(model.parameters()).grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
