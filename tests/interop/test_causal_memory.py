"""Activation checkpointing of a frozen model: the same gradients of its prompts, in less memory."""

import threading
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from cpool.errors import BackboneError, ConfigError
from cpool.inject.recompute import recomputed
from cpool.interop.transformers import CpoolForCausalLM, TaskCallback
from cpool.methods import PrefixTuning, PromptTuning
from tests import tiny
from tests.interop.trained import arguments, stacked

TEXTS, ANSWERS = ["the cat sleeps", "a dog runs in the tree"] * 2, ["red house", "green"] * 2
KINDS = {
    "tokens": lambda: PromptTuning(length=3),
    "long": lambda: PromptTuning(length=20),  # run once for all rows, by keys and values
    "prefix": lambda: PrefixTuning(length=3, init="random"),
}


def begun(kind: str, what: str) -> CpoolForCausalLM:
    torch.manual_seed(0)
    model = CpoolForCausalLM.of(KINDS[what]().build(tiny.new(kind)))
    model.begin_task("red bird")
    return model


def stepped(model: CpoolForCausalLM) -> tuple[list[torch.Tensor], int]:
    """Return loss and gradients of a batch, and the bytes that are kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**stacked(model.rows(TEXTS, ANSWERS))).loss
    frozen = {tensor.untyped_storage().data_ptr() for tensor in model.backbone.parameters()}
    number = sum(size for place, size in kept.items() if place not in frozen)
    return [loss, *torch.autograd.grad(loss, list(model.prompted.parameters()))], number


@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("what", KINDS)
def test_layers_that_are_run_again_give_the_same_gradients(kind, what) -> None:
    model = begun(kind, what)
    expected, whole = stepped(model)
    assert all(step.abs().max() > 1e-4 for step in expected)
    numbers = []
    for every in (3, 2, 1):
        model.activation_checkpointing_enable(every_n_layers=every)
        assert model.is_activation_checkpointing
        found, number = stepped(model)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        numbers.append(number)
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] < 0.6 * whole
    assert not [m for m in model.backbone.plain_model.modules() if "forward" in vars(m)]
    assert not model.backbone.plain_model.training
    # Embeddings bring no gradient of their own, and what is generated is read from a cache.
    batch = model.backbone.prepare(TEXTS)
    assert not model.get_input_embeddings()(batch["input_ids"]).requires_grad
    options = {"max_new_tokens": 3, "do_sample": False}
    ids = model.generate(**batch, **options)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing
    assert torch.equal(model.generate(**batch, **options), ids)
    assert stepped(model)[1] > 0.9 * whole


def test_a_backward_pass_in_another_thread_finds_the_prompts() -> None:
    """On a GPU it is one, to which the context of the pass is unknown."""
    model = begun("llama", "prefix")
    expected, _ = stepped(model)
    model.activation_checkpointing_enable()
    loss = model(**stacked(model.rows(TEXTS, ANSWERS))).loss
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    found = [parameter.grad for parameter in model.prompted.parameters()]
    torch.testing.assert_close(found, expected[1:], atol=1e-6, rtol=1e-5)


def test_a_trainer_learns_the_same_with_it(tmp_path) -> None:
    ends = []
    for memory in (False, True):
        torch.manual_seed(0)
        model = CpoolForCausalLM.of(KINDS["prefix"]().build(tiny.new("llama")))
        Trainer(
            model=model,
            args=arguments(tmp_path, activation_checkpointing=memory),
            train_dataset=model.rows(TEXTS, ANSWERS),
            callbacks=[TaskCallback("red bird")],
        ).train()
        assert model.is_activation_checkpointing is memory
        ends.append({key: value.clone() for key, value in model.state_dict().items()})
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, atol=1e-5, rtol=1e-4)


def test_contexts_may_end_in_another_order_than_they_began() -> None:
    backbone = tiny.new("llama")
    blocks = next(m for m in backbone.plain_model.modules() if isinstance(m, nn.ModuleList))
    how = partial(checkpoint, use_reentrant=False)
    blocks[1].forward = own = blocks[1].forward  # as a tool that puts weights elsewhere does
    first, second = recomputed(backbone, how), recomputed(backbone, how, every=3)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert all(hasattr(vars(block)["forward"], "__wrapped__") for block in blocks)
    second.__exit__(None, None, None)
    assert [vars(block).get("forward") for block in blocks] == [None, own, None]


def test_what_cannot_be_run_again_is_refused() -> None:
    model = begun("llama", "tokens")
    with pytest.raises(ConfigError, match=r"use_reentrant=False.*activation_checkpointing_kwargs"):
        model.activation_checkpointing_enable({"use_reentrant": True})
    model.activation_checkpointing_enable({"preserve_rng_state": False})
    assert model.is_activation_checkpointing
    model = begun("llama", "tokens")
    model.backbone.model.compile()
    with pytest.raises(BackboneError, match=r"torch\.compile.*activation_checkpointing=False"):
        model.activation_checkpointing_enable()
    assert not model.is_activation_checkpointing
