"""Distillation of multitask prompts from teachers: its equation by loops, and who is taught."""

import pytest
import torch

from cpool.errors import ConfigError
from cpool.methods import MultitaskPromptTuning, PromptTuning
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream
from tests.methods.test_language_methods import TEMPLATE, TEXTS, learner, scores

TARGET = torch.tensor([2, 5, 0])


def states(text: str, before: torch.Tensor) -> torch.Tensor:
    """Return the final states of the tokens of a text behind prompt tokens, by transformers."""
    backbone = tiny.backbone("llama")
    ids = torch.tensor([backbone.processor.encode(text, add_special_tokens=False)])
    row = torch.cat([before[None], backbone.plain_model.get_input_embeddings()(ids)], dim=1)
    return backbone.plain_model(inputs_embeds=row).last_hidden_state[0, len(before) :]


def taught(**options):
    method = MultitaskPromptTuning(
        length=3, labels=LABELS, template=TEMPLATE, distil=0.7, teacher_epochs=2, **options
    )
    model = method.build(tiny.backbone("llama"))
    batch = {**model.prepare(TEXTS), "labels": TARGET}
    model.begin_task([0, 2, 5], batches=[batch])
    return model, batch


def test_the_loss_is_its_equation_forward_and_gradient():
    model, batch = taught(rank=2)
    pool = model.prompter.branches["prompt"].pool
    with torch.no_grad():
        pool.blocks[0].add_(0.3 * torch.randn_like(pool.blocks[0]))
    (teacher,) = model.rules[0]._teacher
    own = next(iter(teacher.prompter)).pool.values()[0, 0].detach()
    output = model(batch, task=0)

    mine = pool.values()[0, 0]
    labels = tuple(LABELS[c] for c in (0, 2, 5))
    kl, squares = torch.zeros(()), []
    for text in (f"my {t} now" for t in TEXTS):
        said = scores(text, labels, own).exp()
        now = scores(text, labels, mine).exp()
        said, now = said / said.sum(), now / now.sum()
        kl = kl + sum(p * (p.log() - q.log()) for p, q in zip(said, now, strict=True)) / len(TEXTS)
        squares.append((states(text, mine) - states(text, own)).square())
    wanted = 0.7 * (kl + torch.cat(squares).mean())
    assert wanted > 0.01
    got = output.losses["teacher"]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    trained = list(model.parameters())
    assert len(trained) == 2
    for one, two in zip(
        torch.autograd.grad(got, trained, retain_graph=True),
        torch.autograd.grad(wanted, trained),
        strict=True,
    ):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-3)
    whole = output.losses["cross_entropy"] + output.losses["selection"] + got
    torch.testing.assert_close(output.loss, whole)


def test_a_teacher_is_a_prompt_trained_on_the_task_alone():
    torch.manual_seed(3)
    model, batch = taught(teacher_lr=0.05)
    (teacher,) = model.rules[0]._teacher

    torch.manual_seed(3)
    alone = PromptTuning(length=3, labels=LABELS, template=TEMPLATE, slots="shared")
    # Built in the same order, so that the words are drawn alike.
    MultitaskPromptTuning(length=3, labels=LABELS, template=TEMPLATE).build(model.backbone)
    other = alone.build(model.backbone)
    other.begin_task([0, 2, 5])
    optimizer = torch.optim.Adam(other.parameters(), 0.05)
    losses = []
    for _ in range(2):
        loss = other(batch, task=0).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(other.parameters()), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    got, wanted = (next(iter(m.prompter)).pool.values() for m in (teacher, other))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_the_first_tasks_are_taught_and_teachers_are_let_go(tmp_path):
    method = MultitaskPromptTuning(
        length=2, labels=LABELS, shared_tasks=2, distil=0.9, teacher_epochs=1
    )
    run, tasks = learner(method), stream("llama")
    seen = []
    rule, before = run.model.rules[0], run.model.rules[0].before

    def watched(*args):
        before(*args)
        seen.append(len(rule._teacher))
        assert all(not p.requires_grad for t in rule._teacher for p in t.parameters())

    rule.before = watched
    run.run(tasks, tmp_path)
    assert seen == [1, 1, 0]
    assert not rule._teacher
    plain = MultitaskPromptTuning(length=2, labels=LABELS, shared_tasks=2)
    other = learner(plain)
    other.run(tasks)
    assert run.model.state_dict().keys() == other.model.state_dict().keys()
    assert run.trained.total == other.trained.total


@pytest.mark.parametrize(
    "options",
    [{"distil": -1.0}, {"teacher_epochs": 0}, {"teacher_lr": 0.0}, {"distil": float("nan")}],
)
def test_settings_of_teachers_are_checked(options):
    (key,) = options
    with pytest.raises(ConfigError, match=key):
        MultitaskPromptTuning(**options)
