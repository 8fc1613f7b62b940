"""Progressive Prompts in words, by a loop over labels and texts, on a decoder and a T5."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cpool.errors import ConfigError
from cpool.methods import ProgressivePromptTuning
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.methods.test_language_methods import TEXTS, learner, scores

TASKS = ([0, 1], [2, 3], [4, 5])
TEMPLATE = "my {{ text }} now"


def filled(kind: str, **options) -> tuple[torch.nn.Module, list[Tensor]]:
    """Return a model that has begun three tasks, and the prompts of each."""
    torch.manual_seed(0)
    method = ProgressivePromptTuning(length=2, labels=LABELS, template=TEMPLATE, **options)
    model = method.build(tiny.backbone(kind))
    for classes in TASKS:
        model.begin_task(classes)
    pool = model.prompter.branches["progressive"].pool
    pool.mark_trained(torch.arange(3)[:, None])
    return model, [block[0, 0] for block in pool.blocks]


def of_t5(text: str, prompt: Tensor) -> Tensor:
    """Return log p(label | prompt, text) of a T5, label by label, by transformers alone."""
    backbone = tiny.backbone("t5")
    whole, tokenizer = backbone.language_model, backbone.processor
    ids = torch.tensor(tokenizer(text)["input_ids"])
    row = torch.cat([prompt, whole.get_input_embeddings()(ids)])[None]
    found = []
    for label in LABELS:
        names = [*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id]
        start = whole.config.decoder_start_token_id
        logits = whole(inputs_embeds=row, decoder_input_ids=torch.tensor([[start, *names[:-1]]]))
        table = logits.logits[0].log_softmax(dim=-1)
        found.append(sum(table[place, word] for place, word in enumerate(names)))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_newest_prompt_stands_in_front_and_alone_trains(kind):
    model, prompts = filled(kind)
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([4, 5, 4])}
    output = model(batch, task=2)
    joined = torch.cat(prompts[::-1])
    one = scores if kind == "llama" else of_t5
    rows = [
        one(f"my {t} now", LABELS, joined) if kind == "llama" else one(f"my {t} now", joined)
        for t in TEXTS
    ]
    expected = torch.stack(rows)[:, 4:]
    torch.testing.assert_close(output.logits[:, 4:], expected, atol=2e-5, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(expected, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(output.loss, loss, atol=1e-5, rtol=1e-5)
    (only,) = list(model.parameters())
    assert only.data_ptr() == prompts[2].data_ptr()
    (got,) = torch.autograd.grad(output.loss, [only])
    (wanted,) = torch.autograd.grad(loss, [only])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_a_told_task_is_answered_as_when_it_was_new():
    model, prompts = filled("llama")
    model.eval()
    with torch.no_grad():
        output = model(model.prepare(TEXTS), task=1)
    joined = torch.cat([prompts[1], prompts[0]])
    expected = torch.stack([scores(f"my {t} now", LABELS, joined) for t in TEXTS])
    torch.testing.assert_close(output.logits[:, 2:4], expected[:, 2:4], atol=2e-5, rtol=1e-5)
    assert torch.isneginf(output.logits[:, [0, 1, 4, 5]]).all()
    assert {tuple(row) for row in output.selections["progressive"].index.tolist()} == {(1, 0)}


def test_untold_all_prompts_are_read_and_all_labels_compete():
    model, prompts = filled("llama", known_task=False)
    model.eval()
    with torch.no_grad():
        output = model(model.prepare(TEXTS))
    joined = torch.cat(prompts[::-1])
    expected = torch.stack([scores(f"my {t} now", LABELS, joined) for t in TEXTS])
    torch.testing.assert_close(output.logits, expected, atol=2e-5, rtol=1e-5)


def test_what_was_learned_stays_when_the_task_is_told():
    run = learner(ProgressivePromptTuning(length=2, labels=LABELS, template=TEMPLATE))
    x = tiny.raw("llama", 8)
    run.fit_task((x, np.array(TASKS[0] * 4)))
    batch = run.model.prepare(TEXTS)

    def answered() -> Tensor:
        run.model.eval()
        with torch.no_grad():
            return run.model(batch, task=0).logits[:, :2]

    before = answered()
    run.fit_task((x, np.array(TASKS[1] * 4)))
    assert torch.equal(before, answered())
    told = learner(ProgressivePromptTuning(length=2, labels=LABELS))
    with pytest.raises(ConfigError, match=r"'progressive_prompt_tuning'.*class-incremental"):
        told.run(stream("llama"))


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="length"):
        ProgressivePromptTuning(length=0)
