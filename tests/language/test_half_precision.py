"""Prompts in float32 before language models in bfloat16 and float16; prompts and texts too long."""

import warnings

import pytest
import torch

from cpool.backbones import Backbone, TruncationWarning, wrap_model
from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import PromptTuning
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream

KINDS = [*tiny.DECODERS, *tiny.SEQ2SEQ]


def learner(backbone: Backbone, length: int = 3) -> Learner:
    model = PromptTuning(length=length, labels=LABELS).build(backbone)
    return Learner(model, seed=0, device="cpu", quiet=True, epochs=2, batch_size=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_prompt_in_float32_trains_before_a_model_in_half_precision(kind, dtype) -> None:
    tokenizer = tiny.backbone(kind).processor
    backbone = wrap_model(tiny.language_model(kind).to(dtype), tokenizer)
    before = {name: part.clone() for name, part in backbone.language_model.state_dict().items()}
    run = learner(backbone)
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
    whole = wrap_model(tiny.language_model(kind).to(dtype).float(), tokenizer)
    other = learner(whole)
    other.fit_task(stream(kind)[0])
    other.fit_task(stream(kind)[1])
    other.model.load_state_dict(run.model.state_dict(), strict=False)
    texts = [str(text) for text in stream(kind)[0].test.x]
    with torch.no_grad():
        got = run.model.eval()(run.model.prepare(texts), task=0).logits.float()
        wanted = other.model.eval()(other.model.prepare(texts), task=0).logits
    assert torch.allclose(got[:, :2], wanted[:, :2], atol=0.4)


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_a_prompt_longer_than_the_model_reads_is_refused(kind) -> None:
    with pytest.raises(ConfigError, match="prompts shorter than the 64") as refused:
        learner(tiny.backbone(kind), length=200).fit_task(stream(kind)[0])
    assert "Choose fewer or shorter prompts" in str(refused.value)


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_a_long_text_is_cut_beside_prompt_and_labels_with_one_warning(kind) -> None:
    """As much of the text is left as fits before the prompt and the longest label."""
    backbone = tiny.backbone(kind)
    run = learner(backbone)
    run.fit_task(stream(kind)[0])
    text, other = (" ".join([words] * 100) for words in ("cat sleeps", "the house"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = run.predict([text, "a bird", other])
    (warned,) = [w for w in seen if issubclass(w.category, TruncationWarning)]
    assert "2 texts were longer than" in str(warned.message)
    room = int(str(warned.message).split("longer than ")[1].split()[0])
    tokenizer = backbone.processor
    for words in run.model.passes.around:  # the template's words belong to what is read
        room -= len(tokenizer.encode(words, add_special_tokens=False))
    cut = [
        tokenizer.decode(tokenizer.encode(long, add_special_tokens=False)[:room])
        for long in (text, other)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.predict([cut[0], "a bird", cut[1]]).tolist() == found.tolist()
