"""CODA-Prompt against the numbers of its code, and against its equations written as loops."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.methods import CODAPrompt
from cpool.rules.gram_schmidt import gram_schmidt
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import build, stream
from tests.golden_vit import golden_backbone, images
from tests.methods.test_golden import close, close_gradient, fill_head, set_

CLASSES = ([0, 1], [2, 3], [4, 5])


def golden(tasks, **options):
    """Return the built method with the golden components of the first `tasks` tasks."""
    backbone, file = golden_backbone("coda.safetensors")
    model = CODAPrompt(slots_per_task=3, length=4, **options).build(backbone)
    for classes in CLASSES[:tasks]:
        model.begin_task(classes)
    model.head = type(model.head)(32)
    fill_head(model.head, file, 6)
    for layer, branch in enumerate(model.prompter):
        assert branch.name == f"layer{layer}"
        for task in range(tasks):
            part = slice(3 * task, 3 * task + 3)
            set_(branch.pool.blocks[task][:, 0], file[f"P.{layer}"][part])
            set_(branch.policy.keys.blocks[task], file[f"K.{layer}"][part])
            set_(branch.policy.attention.blocks[task], file[f"A.{layer}"][part])
        branch.pool.mark_trained(torch.arange(3 * tasks)[None])
    return model, file


def test_the_built_model_computes_what_the_code_does():
    model, file = golden(2)
    out = model.eval()(images(file))
    weights = torch.stack([out.selections[f"layer{layer}"].weight for layer in range(5)])
    assert len(model.prompter.branches) == 5  # layer 5 has no prefix
    assert close(weights, file["alpha"])
    assert close(out.features, file["out.features"])
    assert close(out.logits, file["out.logits"])


@pytest.mark.parametrize("tasks", [1, 3])
def test_only_components_of_tasks_up_to_now_take_part(tasks):
    model, file = golden(tasks)
    assert close(model.eval()(images(file)).logits, file[f"task{tasks - 1}.logits"])


@pytest.mark.parametrize(("penalty", "prefix"), [(0.1, "grad"), (0.0, "grad_mu0")])
def test_training_loss_and_gradients(penalty, prefix):
    model, file = golden(2, penalty=penalty)
    out = model.train()({**images(file), "labels": file["train.labels"].long()}, task=1)
    assert close(out.logits, file["train.logits_all"])
    assert close(out.losses["cross_entropy"], file["train.ce"])
    loss = file["train.loss"] if penalty else file["train.ce"]
    assert close(out.losses["selection"], file["train.prompt_loss"][0] * (penalty > 0))
    assert close(out.loss, loss)
    out.loss.backward()
    for layer, branch in enumerate(model.prompter):
        blocks = {
            "K": branch.policy.keys.blocks,
            "A": branch.policy.attention.blocks,
            "P": branch.pool.blocks,
        }
        for name, (old, new) in blocks.items():
            expected = file[f"{prefix}.{name}.{layer}"]
            assert old.grad is None and not old.requires_grad, "components of task 0 are frozen"
            assert expected[:3].abs().max() == 0
            assert close_gradient(new.grad.reshape(expected[3:6].shape), expected[3:6])
    assert close_gradient(model.head.weights[0].grad, file[f"{prefix}.head.weight"])
    assert close_gradient(model.head.biases[0].grad, file[f"{prefix}.head.bias"])


def test_gram_schmidt_is_that_of_the_code():
    file = golden_backbone("coda.safetensors")[1]
    made = gram_schmidt(file["gs.input"][:3], file["gs.draws"])
    assert close(made, file["gs.result"][3:6], 1e-6)


def test_gram_schmidt_of_more_rows_than_dimensions_keeps_the_draw():
    made = gram_schmidt(torch.eye(2), torch.tensor([[3.0, 4.0]]))
    assert torch.allclose(made, torch.tensor([[0.6, 0.8]]))


def grown(**options):
    with seeded(0, "coda"):
        model = CODAPrompt(layers=(0, 2), slots_per_task=2, length=2, **options).build(
            tiny.backbone("vit")
        )
        for task in range(3):
            model.begin_task([2 * task, 2 * task + 1])
    return model


def test_new_components_start_orthogonal_to_the_old_ones_when_asked_to():
    """Here nothing has trained, so the old rows are orthonormal and the classical form is exact."""
    for branch in grown(init="gram_schmidt").prompter:
        keys, attention = branch.policy.keys(), branch.policy.attention()
        for rows in (keys, attention, branch.pool.values().flatten(1)):
            assert torch.allclose(rows @ rows.T, torch.eye(6), atol=1e-5)
        assert not torch.equal(keys, attention)
    for branch in grown().prompter:
        rows = branch.policy.keys()
        for start in (rows, branch.policy.attention(), branch.pool.values()):
            assert start.min() >= 0 and start.max() <= 1
        assert (rows @ rows.T - torch.eye(6)).abs().max() > 1


def test_gram_schmidt_leaves_the_frozen_components_alone():
    learner = build("coda_prompt_gram_schmidt", "vit")
    model = learner.model
    learner.fit_task(stream("vit")[0])
    before = {n: t.clone() for n, t in model.state_dict().items() if ".blocks.0" in n}
    model.begin_task([90, 91])
    after = model.state_dict()
    assert len(before) == 3 and all(torch.equal(after[n], t) for n, t in before.items())


def test_the_norm_of_the_paper_by_hand():
    model = grown(penalty=0.3, penalty_form="norm")
    batch = {**tiny.batch("vit", 2), "labels": torch.tensor([4, 5])}
    out = model.train()(batch, task=2)
    total = 0.0
    for branch in model.prompter:
        pool, policy = branch.pool.values(), branch.policy
        for rows in (policy.keys(), policy.attention(), pool.flatten(1)):
            rows = rows.detach().double().tolist()
            square = 0.0
            for i, a in enumerate(rows):
                for j, b in enumerate(rows):
                    dot = sum(x * y for x, y in zip(a, b, strict=True))
                    square += (dot - (i == j)) ** 2
            total += math.sqrt(square)
    assert float(out.losses["orthogonality"].detach()) == pytest.approx(0.3 * total, rel=1e-5)
    assert float(out.losses["selection"].detach()) == 0.0


def test_prefixes_by_the_equations_in_float64():
    model = grown()
    for branch in model.prompter:
        branch.pool.mark_trained(torch.arange(6)[None])
    query = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = model.eval().prompter(query).layers
    for branch, layer in zip(model.prompter, (0, 2), strict=True):
        keys, attention = (
            k().detach().double() for k in (branch.policy.keys, branch.policy.attention)
        )
        values = branch.pool.values()[:, 0].detach().double()  # [M, length, width]
        for b in range(3):
            prompt = torch.zeros(2, 32, dtype=torch.float64)
            for m in range(6):
                seen = query[b].double() * attention[m]
                alpha = (seen @ keys[m]) / (seen.norm() * keys[m].norm())
                prompt += alpha * values[m]
            for j in range(32):  # feature 8h + j is feature j of head h
                assert float(made[layer][0][b, j // 8, 0, j % 8]) == pytest.approx(
                    float(prompt[0, j]), abs=1e-5
                )
                assert float(made[layer][1][b, j // 8, 0, j % 8]) == pytest.approx(
                    float(prompt[1, j]), abs=1e-5
                )


def test_layers_by_default_and_by_name():
    shallow = CODAPrompt().build(tiny.backbone("vit"))
    assert list(shallow.prompter.branches) == ["layer0", "layer1", "layer2"]
    deep = CODAPrompt().build(golden_backbone("coda.safetensors")[0])
    assert list(deep.prompter.branches) == [f"layer{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": 3}, "length even"),
        ({"penalty": -1.0}, "penalty at least 0"),
        ({"layers": ()}, "layers with at least one"),
        ({"layers": (1, 1)}, "layers with at least one layer, each once"),
    ],
)
def test_what_cannot_work_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        CODAPrompt(**options)
