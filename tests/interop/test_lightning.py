"""Prompted models in the Trainer of Lightning: what they learn, what stays, what is saved."""

import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="the extra lightning is not installed")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import cpool
from cpool.errors import CheckpointError, ConfigError, DataError, MissingDependencyError, StateError
from cpool.interop.lightning import PromptModule, TaskCallback
from cpool.interop.lightning.loader import TaskLoader
from cpool.seeding import derive, seeded
from tests import tiny
from tests.common.rows import LANGUAGE, ROWS
from tests.common.tasks import stream

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_data"),
    # Lightning's own call of torch.
    pytest.mark.filterwarnings(
        "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
    ),
    # Lightning wants workers where batches come from tensors in memory.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

SETTINGS = {
    "epochs": 2,
    "batch_size": 5,  # does not divide the 12 samples of a task
    "lr": 0.01,
    "optimizer": "adamw",
    "weight_decay": 0.5,
    "schedule": "cosine",
    "clip_norm": 0.5,
}


def kind_of(row: str) -> str:
    return "llama" if row in LANGUAGE else "vit"


def built(row: str):
    backbone = tiny.backbone(kind_of(row))
    with seeded(0, "build"):
        return ROWS[row]().build(backbone)


def module_of(row: str, **changes) -> PromptModule:
    return PromptModule(built(row), **{**SETTINGS, **changes})


def trainer(module, task, *callbacks, **options) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "max_epochs": module.settings.epochs,
    }
    return Trainer(**{**quiet, **options}, callbacks=[TaskCallback(task), *callbacks])


def fit(module, task, *callbacks, **options) -> Trainer:
    made = trainer(module, task, *callbacks, **options)
    made.fit(module)
    return made


def answers(module, kind: str) -> np.ndarray:
    """Return the probabilities of all test data, as a Trainer predicts them."""
    x = [x for task in stream(kind) for x in task.test.x]
    x = x if kind == "llama" else np.stack(x)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    batches = Trainer(**quiet).predict(module, module.loader(x))
    return torch.cat(batches).numpy()


def everything(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


GRADIENT = ("l2p_growing", "dualprompt", "prompt_tuning")
FITTED = ("sprompts", "l2p_queries", "hide_prompt")
CLOSED = ("ncm", "ranpac", "ranpac_first_session")
RULES = ("der_plus_plus", "lwf")  # memories, teachers
OTHERS = ("few_shot", "prompt_ridge")  # read raw inputs; hold rows back


@pytest.mark.parametrize("row", GRADIENT + FITTED + CLOSED + RULES + OTHERS)
def test_a_module_learns_what_a_learner_learns(row):
    kind = kind_of(row)
    module = module_of(row)
    learner = cpool.Learner(built(row), device="cpu", quiet=True, **SETTINGS)
    backbone = {k: v.clone() for k, v in tiny.backbone(kind).state_dict().items()}
    for task in stream(kind)[:2]:
        fit(module, task)
        learner.fit_task(task)
    assert not module.running and module.classes == learner.classes
    x = [x for task in stream(kind) for x in task.test.x]
    wanted = learner.predict_proba(np.stack(x) if kind == "vit" else x)
    np.testing.assert_allclose(answers(module, kind), wanted, atol=1e-5)
    assert same(backbone, tiny.backbone(kind).state_dict())
    assert not [name for name in module.state_dict() if "backbone" in name]


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "schedule": "constant"}])
def test_a_loader_of_ones_own_trains_in_its_order(changes):
    settings = {**SETTINGS, **changes}
    module = module_of("l2p_growing", **changes)
    learner = cpool.Learner(built("l2p_growing"), device="cpu", quiet=True, **settings)
    for task in stream("vit")[:2]:
        learner.fit_task(task)
        seed = derive(0, "order", task.index)
        own = cpool.data.make_loader(
            task.train, module.prompted.backbone, 5, shuffle=True, seed=seed
        )
        trainer(module, task.classes).fit(module, own)
    wanted = [learner.predict_proba(task.test.x) for task in stream("vit")]
    np.testing.assert_allclose(answers(module, "vit"), np.concatenate(wanted), atol=1e-5)


def test_what_grows_reaches_the_optimiser_and_what_is_frozen_stays():
    module, seen = module_of("l2p_growing"), []

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            parameters = dict(nn.Module.named_parameters(pl_module))
            (optimizer,) = trainer.optimizers
            known = {id(p) for group in optimizer.param_groups for p in group["params"]}
            trains = {n for n, p in parameters.items() if p.requires_grad}
            assert {n for n, p in parameters.items() if id(p) in known} == trains
            assert all(part.training for part in pl_module.modules())
            seen.append({n: p.detach().clone() for n, p in parameters.items()})

    for task in stream("vit"):
        fit(module, task, Watch())
        now = dict(nn.Module.named_parameters(module))
        block = f"prompted.prompter.branches.prompts.pool.blocks.{task.index}"
        (new,) = [n for n in seen[-1] if n.endswith(f"pool.blocks.{task.index}")]
        assert new.endswith(block.split(".")[-1]) and not torch.equal(seen[-1][new], now[new])
        old = [n for n in now for i in range(task.index) if n.endswith(f"pool.blocks.{i}")]
        assert len(old) == task.index
        assert all(torch.equal(seen[-1][n], now[n]) for n in old)


def test_rates_of_parts_and_schedule_are_in_the_optimiser():
    module = module_of("hide_prompt")
    made = fit(module, stream("vit")[0])
    (optimizer,) = made.optimizers
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.01, 0.001}
    assert all(group["lr"] == pytest.approx(0.0, abs=1e-9) for group in optimizer.param_groups)
    with pytest.raises(ConfigError, match="max_epochs"):
        fit(module, stream("vit")[1], max_epochs=-1)


def test_losses_and_accuracies_are_logged():
    module, one = module_of("l2p_growing"), stream("vit")
    made = trainer(module, one[0])
    made.fit(module, val_dataloaders=module.loader((one[0].test.x, one[0].test.y)))
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= {*made.callback_metrics}
    fit(module, one[1])
    loaders = [module.loader(task.test) for task in one[:2]]
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    found = Trainer(**quiet).test(module, loaders, verbose=False)
    probabilities = answers(module, "vit")
    for index, task in enumerate(one[:2]):
        rows = slice(8 * index, 8 * index + 8)
        labels = np.array(module.classes)[probabilities[rows].argmax(1)]
        right = (labels == task.test.y).mean()
        assert found[index][f"test_accuracy/dataloader_idx_{index}"] == pytest.approx(right)
    module.task = 1  # told: only its classes compete
    told = answers(module, "vit")
    assert (told[:, [module.classes.index(c) for c in one[0].classes]] == 0).all()


@pytest.mark.parametrize("row", ["l2p_growing", "sprompts", "ranpac", "der_plus_plus"])
def test_a_checkpoint_after_a_task_gives_the_model_and_the_next_task(row, tmp_path):
    one = stream("vit")
    whole = module_of(row)
    saves = ModelCheckpoint(tmp_path, save_last=True)
    fit(whole, one[0], saves)
    stored = torch.load(saves.last_model_path, weights_only=True)  # nothing is executed
    assert not [name for name in stored["state_dict"] if "backbone" in name]
    again = PromptModule.load_from_checkpoint(
        saves.last_model_path, prompted=built(row), **SETTINGS
    )
    np.testing.assert_array_equal(answers(again, "vit"), answers(whole, "vit"))
    fit(whole, one[1]).save_checkpoint(tmp_path / "two.ckpt")
    made = trainer(fresh := module_of(row), one[1])  # the same in one call
    made.fit(fresh, ckpt_path=saves.last_model_path)
    assert made.current_epoch == (0 if row == "ranpac" else 2)
    fit(again, one[1])
    assert same(everything(again), everything(whole)) and same(everything(fresh), everything(whole))
    late = module_of(row)
    loaders = [again.loader(task.test) for task in one[:2]]
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    Trainer(**quiet).test(late, loaders, ckpt_path=tmp_path / "two.ckpt", verbose=False)
    assert len(late.prompted.tasks) == 2 and not late.running


class Stop(Callback):
    """Break off after some steps, as a power cut does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.steps:
            raise RuntimeError("power cut")


# An epoch has 3 steps: stops amid one, after one, and at the last step of one.
@pytest.mark.parametrize(
    ("row", "saves", "steps"),
    [
        ("coda_prompt", {"every_n_train_steps": 1}, 5),
        ("sprompts", {"every_n_epochs": 1}, 5),
        ("lwf", {"every_n_train_steps": 3}, 4),
        ("der_plus_plus", {"every_n_train_steps": 1}, 6),
    ],
)
def test_a_task_goes_on_amid_an_epoch_as_without_the_stop(row, saves, steps, tmp_path):
    one = stream("vit")
    whole = module_of(row, epochs=3)
    first = fit(whole, one[0])
    first.save_checkpoint(tmp_path / "first.ckpt")
    broken = PromptModule.load_from_checkpoint(
        tmp_path / "first.ckpt", prompted=built(row), **{**SETTINGS, "epochs": 3}
    )
    fit(whole, one[1])
    saved = ModelCheckpoint(tmp_path / "amid", save_last=True, **saves)
    with pytest.raises(RuntimeError, match="power cut"):
        # Lightning moves ModelCheckpoint behind others, so that the last step is not saved.
        fit(broken, one[1], Stop(steps), saved)
    fresh = PromptModule.load_from_checkpoint(
        tmp_path / "first.ckpt", prompted=built(row), **{**SETTINGS, "epochs": 3}
    )
    again = ModelCheckpoint(tmp_path / "amid", **saves)
    trainer(fresh, one[1], again).fit(fresh, ckpt_path=saved.last_model_path)
    assert same(everything(whole), everything(fresh))
    # The same process may go on with the module that it has.
    again = ModelCheckpoint(tmp_path / "amid", **saves)
    trainer(broken, one[1], again).fit(broken, ckpt_path=saved.last_model_path)
    assert same(everything(whole), everything(broken))


def test_training_that_had_ended_in_a_checkpoint_still_ends_its_task(tmp_path):
    whole, saved = module_of("sprompts"), ModelCheckpoint(tmp_path)
    fit(whole, stream("vit")[0], saved)
    fresh = module_of("sprompts")
    made = trainer(fresh, stream("vit")[0], ModelCheckpoint(tmp_path))
    made.fit(fresh, ckpt_path=saved.best_model_path)
    assert not fresh.running and same(everything(whole), everything(fresh))


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    one = stream("vit")
    module, saved = module_of("l2p_growing"), ModelCheckpoint(tmp_path, save_last=True)
    fit(module, one[0], saved)
    amid, done = saved.best_model_path, saved.last_model_path
    with pytest.raises(CheckpointError, match="in the middle of task 0"):
        PromptModule.load_from_checkpoint(amid, prompted=built("l2p_growing"))
    with pytest.raises(CheckpointError, match="in the middle of task 0"):
        trainer(module, one[1]).fit(module, ckpt_path=amid)
    with pytest.raises(CheckpointError, match=r"lr=0\.01"):
        trainer(other := module_of("l2p_growing", lr=0.02), one[0]).fit(other, ckpt_path=amid)
    with pytest.raises(CheckpointError, match="same method"):
        PromptModule.load_from_checkpoint(done, prompted=built("dualprompt"))
    with pytest.raises(CheckpointError, match="backbone of the checkpoint"):
        other = ROWS["l2p_growing"]().build(tiny.backbone("deit"))
        PromptModule.load_from_checkpoint(done, prompted=other)
    with pytest.raises(StateError, match="task 1, the next one"):
        trainer(fresh := module_of("l2p_growing"), one[0]).fit(fresh, ckpt_path=done)
    stored = torch.load(done, weights_only=True)
    del stored["cpool"]
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="of a PromptModule"):
        PromptModule.load_from_checkpoint(tmp_path / "other.ckpt", prompted=built("l2p_growing"))


def test_what_a_trainer_cannot_train_is_refused():
    one, module = stream("vit"), module_of("l2p_growing")
    for options in ({"devices": 2}, {"num_nodes": 2}):
        many = trainer(module, one[0], strategy="ddp", **options)
        with pytest.raises(ConfigError, match="accelerate launch"):
            many.callbacks[0].setup(many, module, "fit")
    used = fit(module, one[0])
    used.callbacks = [TaskCallback(one[1])]
    with pytest.raises(ConfigError, match="new Trainer"):
        used.fit(module)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    with pytest.raises(StateError, match="TaskCallback"):
        Trainer(**quiet, max_epochs=1).fit(module, module.loader(one[1].train))
    with pytest.raises(StateError, match="task 1, the next one"):
        fit(module, one[2])
    with pytest.raises(DataError, match="at least two classes"):
        trainer(module, [2]).fit(module, module.loader(one[1].train))
    with pytest.raises(ConfigError, match="training data of a running task"):
        fit(module, one[1].classes)
    assert module.running  # the task had begun when Lightning asked for the data
    with pytest.raises(StateError, match="another one"):
        fit(module, one[2])
    with pytest.raises(StateError, match="at least one step"):
        fit(module, one[1], max_epochs=0)
    fit(module, one[1])  # goes on with it
    assert not module.running
    with pytest.raises(StateError, match="begin_task first"):
        module.end_task()

    class Other(LightningModule):
        def training_step(self, batch):
            return None

        def configure_optimizers(self):
            return None

    with pytest.raises(ConfigError, match="Wrap the model"):
        trainer(module, one[2]).fit(Other(), module.loader(one[2].train))
    for wrong in ("ab", 3, []):
        with pytest.raises(DataError):
            TaskCallback(wrong)


def test_methods_that_need_the_data_say_so():
    one = stream("vit")
    raw = module_of("few_shot")
    loader = raw.loader(stream("llama")[0].train)
    with pytest.raises(ConfigError, match="reads raw inputs"):
        trainer(raw, [0, 1]).fit(raw, loader)
    starts = module_of("l2p_queries")
    loader = starts.loader(one[0].train)
    with pytest.raises(ConfigError, match="batches=loader"):
        trainer(starts, one[0].classes).fit(starts, loader)
    assert not starts.prompted.tasks
    made = trainer(starts, one[0])
    made.callbacks[0] = TaskCallback(one[0].classes, batches=loader)
    made.fit(starts, loader)
    assert not starts.running
    held = module_of("prompt_ridge")
    with pytest.raises(ConfigError, match="judges itself on"):
        trainer(held, one[0]).fit(held, held.loader(one[0].train))
    held = module_of("prompt_ridge")
    with pytest.raises(ConfigError, match="holds rows back"):
        trainer(held, one[0].classes).fit(held, held.loader(one[0].train))
    assert not held.prompted.tasks


def test_validation_amid_a_task_is_told_it_or_says_that_it_cannot():
    one, module = stream("vit"), module_of("sprompts")
    made = trainer(module, one[0])
    made.fit(module, val_dataloaders=module.loader(one[0].test))  # its router comes at the end
    assert made.callback_metrics["val_accuracy"] >= 0
    wide = module_of("ease")  # its head has a part for each task, the running one's at the end
    fit(wide, one[0])
    with pytest.raises(StateError, match=r"Trainer\.validate"):
        trainer(wide, one[1]).fit(wide, val_dataloaders=wide.loader(one[0].test))
    done = module_of("ncm")
    fit(done, one[0])
    assert trainer(done, one[1]).validate(done, done.loader(one[0].test), verbose=False)


def test_a_loss_that_is_not_finite_stops_and_early_stopping_ends_the_task():
    one, module = stream("vit"), module_of("l2p_growing")
    module.begin_task(one[0])
    with torch.no_grad():
        next(iter(module.prompted.head.parameters())).fill_(torch.nan)
    with pytest.raises(DataError, match="finite loss"):
        fit(module, one[0])
    module = module_of("l2p_growing", schedule="constant", epochs=5)
    stop = EarlyStopping("train_accuracy", mode="max", patience=1, min_delta=2.0)
    made = fit(module, one[0], stop)
    assert made.current_epoch < 5 and not module.running


def test_a_subclass_with_another_optimiser_begins_the_task_first():
    class Own(PromptModule):
        begins = True

        def configure_optimizers(self):
            if self.begins:
                super().configure_optimizers()
            return torch.optim.SGD(self.prompted.parameters(), 0.1)

    module = Own(built("l2p_growing"), **SETTINGS)
    fit(module, stream("vit")[0])
    assert len(module.prompted.tasks) == 1
    module.begins = False
    with pytest.raises(StateError, match="super"):
        fit(module, stream("vit")[1])


def test_a_loader_goes_on_where_it_was():
    module = module_of("linear_head")
    module.begin_task(stream("vit")[0])

    def labels(loader, epochs: int) -> list[list[int]]:
        return [batch["labels"].tolist() for _ in range(epochs) for batch in loader]

    wanted = labels(module.train_dataloader(), 3)
    for stop in range(1, len(wanted)):
        loader, read, state = module.train_dataloader(), [], None
        for _ in range(3):
            for batch in loader:
                read.append(batch["labels"].tolist())
                if len(read) == stop:
                    state = loader.state_dict()
                    break
            if state:
                break
        later: TaskLoader = module.train_dataloader()
        later.load_state_dict(state)
        assert read + labels(later, 3)[: len(wanted) - stop] == wanted


def test_without_lightning_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in [n for n in sys.modules if n.startswith("cpool.interop.lightning")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[lightning\]"):
        importlib.import_module("cpool.interop.lightning")
