"""The Trainer of transformers on prompted models: what trains, what stays, what is saved."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainerCallback

from cpool.errors import CheckpointError, ConfigError, DataError, StateError
from cpool.interop.transformers import (
    CpoolForImageClassification,
    CpoolForSequenceClassification,
    TaskCallback,
)
from cpool.methods import (
    L2P,
    NCM,
    CODAPrompt,
    DualPrompt,
    FewShot,
    HiDePrompt,
    LinearHead,
    PromptRidge,
    PromptTuning,
    SPrompts,
)
from cpool.optimise import make_optimizer
from cpool.settings import TrainSettings
from tests import tiny
from tests.interop.trained import LABELS, TASKS, arguments, data, same, stacked, trainer, weights

METHODS = {
    "l2p": lambda: L2P(slots_per_task=2, top_k=2, length=2),
    "coda": lambda: CODAPrompt(slots_per_task=2, length=2),
    "dualprompt": lambda: DualPrompt(
        general_layers=(0,), expert_layers=(1, 2), general_length=2, expert_length=2
    ),
    "sprompts": lambda: SPrompts(length=2, centroids=2),
    "linear_head": LinearHead,
    "prompt_tuning": lambda: PromptTuning(length=2, labels=LABELS),
}
CASES = [
    ("vit", "l2p"),
    ("vit", "coda"),
    ("clip", "linear_head"),
    ("bert", "l2p"),
    ("bert", "dualprompt"),
    ("modernbert", "sprompts"),
    ("gpt2", "prompt_tuning"),
    ("llama", "l2p"),
    ("qwen2", "prompt_tuning"),
]


def wrapped(kind: str, method: str, backbone=None):
    torch.manual_seed(0)
    model = METHODS[method]().build(backbone or tiny.backbone(kind))
    vision = kind in tiny.VISION
    return (CpoolForImageClassification if vision else CpoolForSequenceClassification).of(
        model, LABELS
    )


def accuracy(answer) -> dict[str, float]:
    return {"accuracy": float((answer.predictions.argmax(-1) == answer.label_ids).mean())}


def learned(model) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_only_what_is_learned_trains_and_old_slots_stay(kind, method, tmp_path):
    model = wrapped(kind, method)
    backbone = weights(model.backbone)
    first = trainer(model, kind, 0, tmp_path)
    start = learned(model)
    first.train()
    after = learned(model)
    assert any(not torch.equal(start[key], after[key]) for key in start)
    assert not model.running
    assert not model.training
    trainer(model, kind, 1, tmp_path).train()
    assert same(backbone, weights(model.backbone))
    assert not any(parameter.grad is not None for parameter in model.backbone.parameters())
    if model.prompted.prompter is not None:
        for branch in model.prompted.prompter:
            block = f"prompted.prompter.branches.{branch.name}.pool.blocks."
            # A block of the first task is frozen in the second; what is shared goes on.
            old = after[block + "0"]
            assert torch.equal(old, branch.pool.blocks[0]) == bool(branch.per_task)
            assert not torch.equal(start[block + "0"], old)


@pytest.mark.parametrize(
    ("kind", "method"), [("vit", "l2p"), ("bert", "l2p"), ("gpt2", "prompt_tuning")]
)
def test_evaluate_and_predict_speak_of_class_numbers(kind, method, tmp_path):
    model = wrapped(kind, method)
    run = trainer(model, kind, 0, tmp_path, compute_metrics=accuracy)
    run.train()
    told = run.evaluate()
    rows = data(model, kind, 0)
    answer = run.predict(rows)
    batch = stacked(rows)
    with torch.no_grad():
        output = model.prompted(batch)
    classes = np.array(model.prompted.classes)
    assert classes.tolist() == [0, 2]
    truth = np.array(TASKS[0] * 6)
    right = classes[output.logits.argmax(1).numpy()] == truth
    assert told["eval_accuracy"] == answer.metrics["test_accuracy"] == right.mean()
    assert told["eval_loss"] == pytest.approx(float(output.loss), abs=1e-5)
    assert answer.predictions.shape == (12, 4)
    np.testing.assert_allclose(answer.predictions[:, classes], output.logits, atol=1e-5)
    assert np.isneginf(answer.predictions[:, [1, 3]]).all()


def test_a_trainer_steps_as_a_loop_of_ones_own(tmp_path):
    model = wrapped("bert", "l2p")
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    options["learning_rate"] = 20.0  # the slope at the prompts is small where a head is new
    run = trainer(
        model, "bert", 0, tmp_path, num_train_epochs=1, per_device_train_batch_size=12, **options
    )
    other = copy.deepcopy(model.prompted)
    loss = other(stacked(run.train_dataset), task=0).loss
    parameters = dict(other.named_parameters())
    steps = torch.autograd.grad(loss, list(parameters.values()))
    run.train()
    trained = model.prompted.state_dict()
    assert {"prompter", "head"} == {name.split(".")[0] for name in parameters}
    for (name, value), step in zip(parameters.items(), steps, strict=True):
        assert (20 * step).abs().max() > 0.01
        torch.testing.assert_close(trained[name], value - 20 * step, atol=1e-5, rtol=0)


def test_gradients_are_accumulated_as_one_batch(tmp_path):
    ends = []
    for size, steps in ((12, 1), (4, 3)):
        model = wrapped("bert", "linear_head")
        trainer(
            model,
            "bert",
            0,
            tmp_path,
            optim="sgd",
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        ).train()
        ends.append(learned(model))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], atol=1e-5, rtol=0)


class Stop(TrainerCallback):
    """Break off after an epoch, as a power cut does: no event of the end is called."""

    def on_save(self, args, state, control, **rest):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "method"), [("vit", "coda"), ("gpt2", "prompt_tuning")])
def test_a_checkpoint_holds_what_is_learned_and_training_goes_on_from_it(kind, method, tmp_path):
    whole = wrapped(kind, method)
    trainer(whole, kind, 0, tmp_path / "a", save_strategy="epoch").train()
    folder = tmp_path / "a" / "checkpoint-3"
    state = load_file(folder / "model.safetensors")
    assert state.keys() == learned(whole).keys()
    values = sum(tensor.numel() for tensor in state.values())
    assert values < sum(p.numel() for p in whole.backbone.parameters()) / 2
    broken = trainer(wrapped(kind, method), kind, 0, tmp_path / "b", save_strategy="epoch")
    broken.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    fresh = wrapped(kind, method)
    trainer(fresh, kind, 0, tmp_path / "b", save_strategy="epoch").train(
        resume_from_checkpoint=True
    )
    assert same(learned(whole), learned(fresh))
    # The same process may go on with the model that it has.
    trainer(broken.model, kind, 0, tmp_path / "b", save_strategy="epoch").train(
        resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3")
    )
    assert same(learned(whole), learned(broken.model))


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    model = wrapped("vit", "l2p")
    trainer(model, "vit", 0, tmp_path, save_strategy="epoch").train()
    with pytest.raises(CheckpointError, match="in the same task"):
        trainer(model, "vit", 1, tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="in the middle of task 0"):
        CpoolForImageClassification.from_pretrained(
            tmp_path / "checkpoint-6", backbone=model.backbone
        )


def test_the_best_checkpoint_is_what_the_task_ends_on(tmp_path):
    model = wrapped("bert", "linear_head")
    run = trainer(
        model,
        "bert",
        0,
        tmp_path,
        learning_rate=50.0,
        num_train_epochs=3,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
    )
    run.train()
    best = load_file(Path(run.state.best_model_checkpoint) / "model.safetensors")
    assert same(best, learned(model))


def test_rates_of_parts_need_an_optimiser_that_knows_them(tmp_path):
    torch.manual_seed(0)
    method = HiDePrompt(layers=(0,), length=2, infer_epochs=1, align_epochs=1, per_class=4)
    model = CpoolForSequenceClassification.of(method.build(tiny.backbone("bert")), LABELS)
    with pytest.raises(ConfigError, match="optimizers="):
        trainer(model, "bert", 0, tmp_path)
    assert not model.running
    model.begin_task(TASKS[0])
    optimizer = make_optimizer(model.prompted, TrainSettings(lr=0.05))
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.05 * 0.1}
    trainer(model, "bert", 0, tmp_path, optimizers=(optimizer, None)).train()
    assert not model.running


def test_what_a_trainer_cannot_train_is_refused(tmp_path):
    rows = data(wrapped("bert", "linear_head"), "bert", 0)

    def made(model, task=TASKS[0], **changes):
        return Trainer(
            model=model,
            args=arguments(tmp_path, **changes),
            train_dataset=rows,
            callbacks=[TaskCallback(task)],
        )

    backbone = tiny.backbone("bert")
    closed = CpoolForSequenceClassification.of(NCM().build(backbone), LABELS)
    with pytest.raises(ConfigError, match="closed form"):
        made(closed)
    closed.begin_task(TASKS[0])
    closed.end_task([stacked(rows)])
    assert closed(**stacked(rows)).logits.shape == (12, 4)
    with pytest.raises(ConfigError, match="Wrap it"):
        made(torch.nn.Linear(2, 2))
    few = FewShot(
        labels=LABELS, template="{% for e in examples %}{{ e.text }}{% endfor %} {{ text }}"
    )
    raw = CpoolForSequenceClassification.of(few.build(tiny.backbone("gpt2")), LABELS)
    with pytest.raises(ConfigError, match="Demonstrations"):
        raw.begin_task(TASKS[0])
    held = CpoolForSequenceClassification.of(PromptRidge(projection=40).build(backbone), LABELS)
    with pytest.raises(ConfigError, match="Domains, which reads raw inputs or holds rows back"):
        held.begin_task(TASKS[0])
    model = wrapped("bert", "linear_head")
    with pytest.raises(DataError, match="from 0 to 3"):
        made(model, task=[0, 4])
    with pytest.raises(DataError, match="at least two classes"):
        made(model, task=[0])
    with pytest.raises(DataError, match="at least two classes"):
        made(model, task=[0, 0])
    with pytest.raises(StateError, match="to train"):
        model.train()(**stacked(rows))
    made(model)
    with pytest.raises(StateError, match="another task, 0"):
        made(model, task=TASKS[1])
    with pytest.raises(StateError, match="between two tasks"):
        model.begin_task(TASKS[1])
    with pytest.raises(DataError, match="label_smoothing_factor"):
        made(model, label_smoothing_factor=0.1).train()
    model.end_task()
    with pytest.raises(StateError, match="has begun"):
        model.end_task()


def test_names_that_do_not_fit_are_refused():
    model = LinearHead().build(tiny.backbone("bert"))
    for labels in (["one"], ["a", "b", "a"]):
        with pytest.raises(DataError, match="at least 2 classes"):
            CpoolForSequenceClassification.of(model, labels)
    model.begin_task([0, 5])
    with pytest.raises(DataError, match="at least 6 classes"):
        CpoolForSequenceClassification.of(model, LABELS)
    with pytest.raises(DataError, match="a label for each of 2"):
        wrapped("bert", "linear_head").rows(tiny.raw("bert", 2), [0])
