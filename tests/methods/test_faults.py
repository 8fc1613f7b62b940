"""The nine faults of public prompt-pool codes, each by name, and each absent here.

The common grid keeps many of these promises on every kind of backbone; this is their index, with
what would go wrong shown beside what does not.
"""

import copy
import gc
import json
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cpool.backbones import wrap_model
from cpool.errors import CheckpointError, ConfigError
from cpool.experiment.folder import RunFolder
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner
from cpool.inject import encode
from cpool.learner import Learner
from cpool.meter import stored_bytes
from cpool.methods import L2P, DualPrompt
from cpool.optimise import make_optimizer
from cpool.prompter import Prompts
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LANGUAGE, PREFIXES, ROWS
from tests.common.tasks import TASKS, build, logits, stream, trained
from tests.experiment.tiny import SMALL, write_backbone, write_experiment
from tests.golden_vit import images
from tests.methods.test_golden import close, dualprompt  # noqa: F401  (a fixture)

PROMPTED = [row for row, make in ROWS.items() if make().prompts and make().name != "joint"]
EXPERIMENTS = sorted((Path(__file__).parents[2] / "benchmarks" / "experiments").glob("*.toml"))


def kind_of(row):
    """Return the kind of model that a row is shown on: those that score words need a decoder."""
    return "llama" if row in LANGUAGE else "vit"


def branches(row):
    prompter = trained(row, kind_of(row)).learner.model.prompter
    return [] if prompter is None else list(prompter)


def growing(row):
    """Tell whether each task of the stream has added slots (some rules decide on the data)."""
    return any(b.per_task and len(b.pool) == TASKS * b.per_task for b in branches(row))


# ---- 1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PROMPTED)
def test_fault_1_batch_majority_selection_leaks_the_task(row):
    """What a sample gets must not depend on its neighbours: alone, in a batch of 128, shuffled."""
    kind = kind_of(row)
    learner, batch = trained(row, kind).learner, tiny.batch(kind, 128, seed=11)
    together = logits(learner, batch)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(logits(learner, tiny.rows(batch, order)), together[order], atol=1e-5)
    for b in (0, 77):
        alone = logits(learner, tiny.rows(batch, slice(b, b + 1)))
        assert torch.allclose(alone[0], together[b], atol=1e-5)


def test_fault_1_samples_of_one_batch_do_choose_differently():
    """Otherwise a vote of the batch would change nothing, and the test above could not fail."""
    batch = tiny.batch("vit", 128, seed=11)
    for row in ("l2p", "dualprompt", "sprompts"):
        model = trained(row, "vit").learner.model.eval()
        chosen = [s.index for s in model(batch).selections.values() if len(s.index) == 128]
        assert any(len(index.unique(dim=0)) > 1 for index in chosen), row


# ---- 2 ----------------------------------------------------------------------------------------


def prefix_branch(row):
    return next(b for b in branches(row) if hasattr(b.site, "layers"))


def prefixes(model, query):
    """Return the keys and values of every layer, those that are made in the pass too."""
    prompts = model.prompter(query)
    return {**prompts.layers, **{n: live.make(query) for n, live in prompts.live.items()}}


@pytest.mark.parametrize("row", PREFIXES)
def test_fault_2_reshape_mixes_samples_and_keys_with_values(row):
    model = trained(row, "vit").learner.model.eval()
    query = torch.randn(4, model.backbone.query_size, generator=torch.Generator().manual_seed(2))
    other = query.clone()
    other[0] = -query[0]
    with torch.no_grad():
        here, there = prefixes(model, query), prefixes(model, other)
        for layer, pair in here.items():
            for mine, theirs in zip(pair, there[layer], strict=True):
                size = len(mine)
                assert size in (1, 4)
                assert torch.allclose(mine[1:], theirs[1:], atol=1e-5), "another sample's prefix"
        branch = prefix_branch(row)
        kept = [block.clone() for block in branch.pool.blocks]
        try:
            for block in branch.pool.blocks:  # values alone change
                half = branch.pool.length // 2
                place = block[:, :, half:] if branch.site.halves else block[:, 1::2]
                place += 1.0
            moved = prefixes(model, query)
        finally:
            for block, before in zip(branch.pool.blocks, kept, strict=True):
                block.copy_(before)
    for layer in branch.site.layers:
        assert torch.equal(moved[layer][0], here[layer][0]), "a value among the keys"
        assert not torch.equal(moved[layer][1], here[layer][1])


def test_fault_2_the_faulty_reshape_gives_the_numbers_of_the_ports(dualprompt):  # noqa: F811
    """Made on purpose it gives what the port gave, so what is avoided here is that very fault."""
    model, _, _, file = dualprompt
    batch = images(file)
    right = model.eval()(batch).logits
    layers = dict(model.prompter(model.query(batch)).layers)
    for layer in (2, 3, 4):
        key, value = layers[layer]
        wrong = torch.cat([key, value])  # [2, B] read as [B, 2]
        layers[layer] = (wrong[0::2], wrong[1::2])
    prompts = Prompts(None, layers, torch.zeros(()), {})
    encoded = encode(model.backbone, batch, prompts)
    faulty = model.head(encoded.hidden_states[-1][:, 0])
    assert close(faulty, file["faulty_batch4.logits"])
    assert (right - faulty).abs().amax(dim=1).min() > 0.1
    assert close(right, file["out.logits"])


# ---- 3 ----------------------------------------------------------------------------------------


def used_in_training(diversify):
    """Train a pool in which one key lies nearest to every query; return its steps a slot."""
    with seeded(0, "build"):
        method = L2P(pool_size=4, top_k=1, length=2, diversify=diversify, pull=0.0)
        model = method.build(tiny.backbone("vit"))
    learner = Learner(model, epochs=2, batch_size=6, device="cpu", quiet=True)
    queries = torch.cat([learner.queries(task.train) for task in stream("vit")])
    branch = model.prompter.branches["pool"]
    branch.begin_task(0)
    mean = torch.nn.functional.normalize(queries, dim=1).mean(dim=0)
    with torch.no_grad():
        branch.policy.keys.blocks[0].copy_(-mean.expand(4, -1))
        branch.policy.keys.blocks[0][0] = mean
    for task in stream("vit"):
        learner.fit_task(task)
    learner.evaluate(stream("vit"))
    return branch.pool.trained_steps, learner.usage["pool"]


def test_fault_3_pool_collapse_is_shown_and_diversified_selection_lessens_it():
    collapsed, usage = used_in_training(False)
    spread, _ = used_in_training(True)
    assert (collapsed > 0).sum() == 1, "all tasks choose the same slot"
    assert [[count > 0 for count in row] for row in usage] == [[True, False, False, False]] * 3
    assert (spread > 0).sum() >= 3


# ---- 4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_fault_4_without_the_no_prompt_row_a_gain_may_be_class_masking(file):
    """Every committed experiment has the rows that say what prompts are compared with."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    rows = {row["name"] for row in content["method"]}
    assert {"linear_head", "ncm"} <= rows
    assert rows & {"ridge", "ranpac"} and rows & {"fine_tune", "fine_tune_words"}
    # Where there is one task, everything is trained jointly.
    assert "joint" in rows or content["stream"]["tasks"] == 1


# ---- 5 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "optimizer"),
    [(row, "adamw") for row in PROMPTED]
    + [(row, "sgd") for row in ("l2p_growing", "dualprompt", "coda_prompt", "sapt")],
)
def test_fault_5_frozen_prompts_still_move(row, optimizer):
    """Under weight decay and momentum: bit-identical, keys and attention vectors too."""
    seen = trained(row, kind_of(row), optimizer)
    now = dict(nn.Module.named_parameters(seen.learner.model))
    for frozen in seen.frozen:
        assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    if growing(row):
        old = [name for name in seen.frozen[-1] if "pool.blocks" in name]
        assert len(old) >= 2, "the prompts of two finished tasks"


def test_fault_5_a_gradient_set_to_zero_would_not_be_enough():
    """This is what freezing by masked gradients does: decay and momentum move the values."""
    for kind, options in ((torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9})):
        values = nn.Parameter(torch.ones(3))
        optimizer = kind([values], lr=0.1, weight_decay=0.1, **options)
        values.grad = torch.zeros(3)
        optimizer.step()
        assert not torch.equal(values.detach(), torch.ones(3))


# ---- 6 ----------------------------------------------------------------------------------------


@cache
def after_one_task(row):
    learner = build(row, kind_of(row))
    learner.fit_task(stream(kind_of(row))[0])
    return learner


def in_the_second_task(row):
    """Return a model that has learned a task and begun another, and what trained before."""
    model, train = copy.deepcopy(after_one_task(row).model), after_one_task(row).train
    stale = _held(model, train)
    kind = kind_of(row)
    new = list(stream(kind)[1].classes) if row in LANGUAGE else [70, 71]  # words need names
    batch = {**tiny.batch(kind, 8), "labels": torch.tensor(new * 4)}
    model.begin_task(new, batches=[batch])
    return model, train, stale, batch


def _held(model, train):
    if next(model.parameters(), None) is None:
        return set()
    return {id(p) for g in make_optimizer(model, train).param_groups for p in g["params"]}


@pytest.mark.parametrize("row", PROMPTED)
def test_fault_6_parameters_made_after_the_optimiser_never_train(row):
    model, train, stale, batch = in_the_second_task(row)
    new = {n: p for n, p in model.named_parameters() if id(p) not in stale}
    held = _held(model, train)
    assert all(id(p) in held for p in new.values())
    if growing(row):
        assert any("pool.blocks" in name for name in new), "an old optimiser would not know it"
    before = {name: p.detach().clone() for name, p in new.items()}
    if new:
        optimizer = make_optimizer(model, train)
        model.train()(batch, task=1).loss.backward()
        optimizer.step()
    for name, value in before.items():
        assert not torch.equal(new[name].detach(), value), f"{name} never moved"


# ---- 7 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PROMPTED)
def test_fault_7_untrained_future_slots_are_selected(row):
    known = {b.name: len(b.pool) for b in after_one_task(row).model.prompter}
    model = in_the_second_task(row)[0].eval()
    if growing(row):
        assert all(len(b.pool) > known[b.name] for b in model.prompter if b.per_task)
    with torch.no_grad():  # the new slots exist now, and nothing has trained them
        query = model.query(tiny.batch(kind_of(row), 64, seed=4))
        prompts = model.prompter(query)
        for live in prompts.live.values():
            live.make(query)
    assert set(prompts.selections) == set(known)
    for name, selection in prompts.selections.items():
        assert int(selection.index.max()) < known[name]


# ---- 8 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    file = write_experiment(folder / "x.toml", write_backbone(folder / "backbone"), SMALL)
    run = RunFolder(folder / "out")
    results = Runner(read_experiment(file), run).run(lambda job, record: None)
    return file, results, folder / "out"


@pytest.mark.parametrize("value", ['"False"', "0", '"no"'])
def test_fault_8_the_word_false_is_read_as_true(small_run, value):
    with pytest.raises(ConfigError):
        read_experiment(small_run[0], [f"method.l2p.diversify={value}"])
    assert read_experiment(small_run[0], ["method.l2p.diversify=false"]).methods


def test_fault_8_results_keep_all_tasks_the_seeds_and_the_order_of_classes(small_run):
    _, results, folder = small_run
    written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in written["runs"]] == [0, 0, 1, 1]
    for run in written["runs"]:
        matrix = np.array(run["accuracy_matrix"], dtype=float)
        assert np.isfinite(matrix[np.tril_indices(len(matrix))]).all(), "every task after each"
        assert sorted(run["class_order"]) == list(range(10))
    orders = {run["seed"]: tuple(run["class_order"]) for run in written["runs"]}
    assert orders[0] != orders[1], "the seed is no constant"
    assert results["runs"][0]["label"] == "ncm"


def test_fault_8_a_checkpoint_that_cannot_be_read_is_no_fresh_start(tmp_path):
    learner = trained("l2p_growing", "vit").learner
    learner.save(tmp_path)
    file = max(tmp_path.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError):
        Learner.load(tmp_path, tiny.backbone("vit"), device="cpu", quiet=True)


# ---- 9 ----------------------------------------------------------------------------------------


def test_fault_9_two_backbones_lie_in_memory():
    """All models of one backbone share it, the query pass and the prompted pass too."""
    model = tiny.model("vit")
    backbone = wrap_model(model, tiny.image_processor(), name="one")
    kind, batch = type(model), tiny.batch("vit", 4)  # the shared backbone is made before we count
    gc.collect()
    before = sum(type(thing) is kind for thing in gc.get_objects())
    made = []
    for row in sorted(set(PROMPTED) - set(LANGUAGE)):  # of images, as the backbone
        made.append(ROWS[row]().build(backbone))
        labels = torch.tensor([0, 1] * 2)
        made[-1].begin_task([0, 1], batches=[{**batch, "labels": labels}])
    gc.collect()
    assert sum(type(thing) is kind for thing in gc.get_objects()) == before
    assert all(one.backbone is backbone for one in made)
    weights = {p.data_ptr() for p in model.parameters()}
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    for one in made:
        assert not weights & {t.data_ptr() for t in one.state_dict().values() if t.numel()}
    # The size of a checkpoint is counted, and the backbone is not in it.
    small = DualPrompt((0,), (1,), 1, 1).build(backbone)
    small.begin_task([0, 1])
    stored = stored_bytes(small)
    assert stored == sum(t.numel() * t.element_size() for t in small.state_dict().values())
    assert stored < size / 10
