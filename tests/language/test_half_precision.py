"""Prompts in float32 before language models in bfloat16 and float16."""

import pytest
import torch

from cpool.backbones import Backbone, wrap_model
from cpool.learner import Learner
from cpool.methods import PrefixTuning, PromptTuning
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream

METHODS = {"tokens": PromptTuning, "prefix": PrefixTuning}


def learner(what: str, backbone: Backbone) -> Learner:
    model = METHODS[what](length=3, labels=LABELS, init="text", text="the red house").build(
        backbone
    )
    return Learner(model, seed=0, device="cpu", quiet=True, epochs=2, batch_size=6)


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("kind", [*tiny.SPEAKING, "llama with a start token"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_prompt_in_float32_trains_before_a_model_in_half_precision(kind, dtype, what) -> None:
    kind, _, start = kind.partition(" ")
    tokenizer = (tiny.starting if start else tiny.backbone)(kind).processor
    backbone = wrap_model(tiny.language_model(kind).to(dtype), tokenizer)
    before = {name: part.clone() for name, part in backbone.language_model.state_dict().items()}
    run = learner(what, backbone)
    first = run.model.prompter.branches["prompt"].pool
    run.fit_task(stream(kind)[0])
    values = first.values().detach().clone()
    run.fit_task(stream(kind)[1])
    assert values.dtype == torch.float32 and values.isfinite().all()
    assert not torch.equal(values, first.values()[1:2]), "a task has a prompt of its own"
    assert torch.equal(first.values()[:1], values), "a finished one stays"
    after = backbone.language_model.state_dict()
    assert all(part.dtype == dtype or not part.is_floating_point() for part in after.values())
    assert all(torch.equal(part, after[name]) for name, part in before.items())
    # What was learned scores nearly the same before the same weights in float32.
    again = learner(what, wrap_model(tiny.language_model(kind).to(dtype).float(), tokenizer))
    for task in (stream(kind)[0], stream(kind)[1]):
        again.fit_task(task)
    other, learned = again.model, run.model.state_dict()
    assert any(not torch.equal(part, learned[name]) for name, part in other.state_dict().items())
    other.load_state_dict(learned)
    texts = [str(text) for text in stream(kind)[0].test.x]
    with torch.no_grad():
        got = run.model.eval()(run.model.prepare(texts), task=0).logits[:, :2].float()
        wanted = other.eval()(other.prepare(texts), task=0).logits[:, :2]
    assert (got - wanted).abs().max() < 0.1 * wanted.std(), "rounding, and no more"
