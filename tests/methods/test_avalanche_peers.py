"""EWC, LwF and the reservoir against Avalanche's, where the definitions agree."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from cpool.methods import EWC
from cpool.rules.distillation import distance
from cpool.rules.ewc import fisher_diagonal
from cpool.rules.memory import Memory
from tests import tiny


@pytest.fixture(scope="module")
def avalanche():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("avalanche", reason="the extra avalanche is not installed")
        from avalanche.benchmarks.utils import as_avalanche_dataset
        from avalanche.training.plugins import EWCPlugin
        from avalanche.training.regularization import LearningWithoutForgetting
        from avalanche.training.storage_policy import ReservoirSamplingBuffer
    return SimpleNamespace(
        ewc=EWCPlugin,
        lwf=LearningWithoutForgetting,
        reservoir=ReservoirSamplingBuffer,
        dataset=as_avalanche_dataset,
    )


def as_linear(model):
    """Return the head of a model as one linear layer, for Avalanche."""
    layer = torch.nn.Linear(tiny.WIDTH, 3)
    with torch.no_grad():
        layer.weight.copy_(model.head.weights[0])
        layer.bias.copy_(model.head.biases[0])
    return layer


@pytest.mark.parametrize("online", [False, True])
def test_fisher_and_penalty_of_ewc(avalanche, online):
    """Their importances of batches of 1 are the empirical Fisher; their λ is half of ours."""
    options = {"online": online, "decay": 0.5} if online else {}
    method = EWC(strength=4.0, fisher="data", samples=None, tune="head", **options)
    model = method.build(tiny.backbone("vit"))
    model.begin_task([0, 1, 2])
    mode = {"mode": "online", "decay_factor": 0.5} if online else {"mode": "separate"}
    plugin, criterion = avalanche.ewc(ewc_lambda=2.0, **mode), torch.nn.CrossEntropyLoss()
    for task in range(2):
        if task:
            model.begin_task([0, 1, 2])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        x, y = torch.randn(6, tiny.WIDTH), torch.arange(6) % 3
        layer = as_linear(model)
        model.end_task([{"query": x, "labels": y}])
        theirs = plugin.compute_importances(
            layer,
            criterion,
            torch.optim.SGD(layer.parameters(), lr=0.1),
            TensorDataset(x, y, torch.zeros(6, dtype=torch.long)),
            "cpu",
            batch_size=1,
        )
        ours = fisher_diagonal(model, [{"query": x, "labels": y}], task, labels="data")
        assert torch.allclose(ours["head.weights.0"], theirs["weight"].data, rtol=1e-4, atol=1e-9)
        assert torch.allclose(ours["head.biases.0"], theirs["bias"].data, rtol=1e-4, atol=1e-9)
        plugin.update_importances(theirs, task)
        plugin.saved_params[task] = {
            n: SimpleNamespace(data=p.detach().clone(), expand=p.detach().clone().expand)
            for n, p in layer.named_parameters()
        }
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    strategy = SimpleNamespace(
        clock=SimpleNamespace(train_exp_counter=2),
        device="cpu",
        loss=torch.zeros(()),
        model=as_linear(model),
    )
    plugin.before_backward(strategy)
    ours = model.rules[0].loss(model, {}, None, 2)["ewc"]
    assert float(ours.detach()) == pytest.approx(float(strategy.loss.detach()), rel=1e-5)
    assert float(ours.detach()) > 1e-3


def test_loss_and_gradient_of_lwf(avalanche):
    now, then = torch.randn(5, 4, requires_grad=True), torch.randn(5, 6)
    theirs = avalanche.lwf(temperature=2)._distillation_loss(now, then, range(3))
    (slope,) = torch.autograd.grad(theirs, now)
    ours = distance(now[:, :3], then[:, :3], 2.0)
    (mine,) = torch.autograd.grad(ours, now)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert torch.allclose(mine, slope, atol=1e-7)


def test_the_reservoir_keeps_the_same_samples(avalanche, monkeypatch):
    """Both keep the best of one random number a sample: theirs the largest, ours the smallest."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        theirs, ours = avalanche.reservoir(4), Memory(4)
        for part in torch.arange(23).split(5):
            drawn = torch.rand(len(part), generator=generator)
            piece = avalanche.dataset(TensorDataset(part[:, None].float(), part))
            with monkeypatch.context() as patch:
                patch.setattr(torch, "rand", lambda n, d=drawn: d)
                theirs.update_from_dataset(piece)
                patch.setattr(torch, "rand", lambda n, dtype, d=drawn: 1 - d.to(dtype))
                ours.add({"x": part[:, None].float()}, part)
        kept = sorted(int(theirs.buffer[i][1]) for i in range(4))
        assert sorted(ours.labels.tolist()) == kept
