"""A run with rules that was stopped and resumed is the run that was not, to the last bit."""

import pytest
import torch

from tests import tiny
from tests.common.rows import ROWS
from tests.common.tasks import build, stream

RULES = ("ewc", "ewc_online", "lwf", "replay", "replay_class", "der_plus_plus", "slca")


@pytest.mark.parametrize("kind", ["vit", "bert"])
@pytest.mark.parametrize("row", RULES)
def test_a_run_that_was_resumed_is_the_same(row, kind, tmp_path):
    """Memories, Fishers, Gaussians and backups are there; BERT draws dropout in each step."""
    whole, half = build(row, kind, seed=4), build(row, kind, seed=4)
    for task in stream(kind):
        whole.fit_task(task)
    for task in stream(kind)[:2]:
        half.fit_task(task)
    half.save(tmp_path)
    torch.manual_seed(77)
    rest = type(half)(
        ROWS[row]().build(tiny.backbone(kind)),
        half.train,
        seed=4,
        device="cpu",
        quiet=True,
    ).resume(tmp_path)
    rest.fit_task(stream(kind)[2])
    there, here = rest.model.state_dict(), whole.model.state_dict()
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in here)
    if row != "lwf":
        assert any(name.startswith("rules.") and t.numel() for name, t in here.items())
