"""PromptPoolPlugin on Naive: every method learns what it learns with cpool's own learner."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from cpool.data import as_examples, make_loader
from cpool.seeding import derive
from tests import tiny
from tests.common.rows import LANGUAGE, ROWS
from tests.common.tasks import stream
from tests.interop.strategies.runs import (
    AvalancheModel,
    Naive,
    benchmark,
    own,
    prompted,
    raw_inputs,
    strategy_of,
)

KIND = {row: "llama" if row in LANGUAGE else "vit" for row in ROWS}


class InOrder(Naive):
    """Naive, but the samples come in the order of a learner: the one thing that is Avalanche's."""

    def make_train_dataloader(self, **_):
        data, prompted = self.adapted_dataset, self.model.prompted
        x = raw_inputs(torch.stack([sample[0] for sample in data]))
        rows = make_loader(
            as_examples((x, np.array(data.targets))),
            prompted.backbone,
            self.train_mb_size,
            shuffle=True,
            seed=derive(0, "order", len(prompted.tasks) - 1),
            extra={"row": torch.arange(len(data))},
        )
        self.dataloader = Batches(data, rows)


class Batches:
    def __init__(self, data, rows):
        self.data, self.rows = data, rows

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        for batch in self.rows:
            yield default_collate([tuple(self.data[i]) for i in batch["row"].tolist()])


@pytest.mark.parametrize("row", [r for r in ROWS if r != "joint"])
def test_every_method_learns_what_its_learner_learns(row):
    kind = KIND[row]
    model = AvalancheModel(prompted(row, kind))
    strategy = strategy_of(InOrder, model, train_mb_size=5)
    learner, made = own(row, kind, batch_size=5), benchmark(kind)
    backbone = {k: v.clone() for k, v in tiny.backbone(kind).state_dict().items()}
    for experience, task in zip(made.train_stream, stream(kind), strict=True):
        frozen = _frozen(strategy.model)
        strategy.train(experience, reset_optimizer_state=True)
        learner.fit_task(task)
        now = dict(nn.Module.named_parameters(strategy.model))
        assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(torch.equal(v, backbone[k]) for k, v in tiny.backbone(kind).state_dict().items())
    state, wanted = model.prompted.state_dict(), learner.model.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}
    for task, test in zip(stream(kind), made.test_stream, strict=True):
        # What the learner says untold, also of a method that it would tell the task.
        wanted = learner.predictor.predict(task.test)
        x = torch.stack([sample[0] for sample in test.dataset])
        strategy.model.eval()
        with torch.no_grad():
            logits = strategy.model(x)
            chosen = strategy.model.prompted(strategy.model.batch(x)).selections
        got = logits[:, learner.classes].softmax(dim=1).numpy()
        np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-5)
        # SLDA inverts a covariance of few rows, which makes more of the last bits. Of labels in
        # words a learner runs those that compete, Avalanche's plugins may ask for all.
        close = 1e-4 if row in LANGUAGE else 2e-5 if row == "slda" else 5e-6
        np.testing.assert_allclose(got, wanted.probabilities, atol=close)
        y = np.asarray(task.test.y)
        said = logits.argmax(dim=1).numpy()
        assert (said == y).mean() == pytest.approx((wanted.labels == y).mean(), abs=1e-6)
        for branch, slots in wanted.slots.items():
            mine = np.broadcast_to(chosen[branch].index.numpy(), slots.shape)
            assert np.array_equal(mine, slots)


def _frozen(model):
    everything = dict(nn.Module.named_parameters(model))
    return {n: p.detach().clone() for n, p in everything.items() if not p.requires_grad}
