"""Joint training of the baselines: equal to the sequence where that is closed-form, or refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpool.errors import ConfigError
from cpool.heads import PrototypeHead, SLDAHead
from cpool.learner import Learner
from cpool.methods import Joint
from cpool.ridge import RidgeHead
from tests import tiny
from tests.common.tasks import stream

HEADS = {
    "ncm": lambda: PrototypeHead(5),
    "slda": lambda: SLDAHead(5, shrinkage=0.1),
    "ridge": lambda: RidgeHead(5, projection=None, ridge=0.5),
}


@pytest.mark.parametrize("name", HEADS)
@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=25),
    cuts=st.integers(2, 6),
    seed=st.integers(0, 999),
)
@settings(max_examples=30)
def test_a_closed_form_head_is_the_same_in_sequence_and_jointly(name, labels, cuts, seed):
    """Any cut, classes that come again included."""
    y = torch.tensor(labels)
    x = torch.randn(len(y), 5, generator=torch.Generator().manual_seed(seed))
    query = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed + 1))
    once, parts = HEADS[name](), HEADS[name]()
    once.begin_task(sorted(set(labels)))
    once.fit(x, y)
    for part in torch.arange(len(y)).chunk(cuts):
        parts.begin_task(sorted(set(y[part].tolist())))
        parts.fit(x[part], y[part])
    order = [parts.classes.index(c) for c in once.classes]
    assert torch.allclose(parts(query)[:, order], once(query), rtol=1e-4, atol=1e-5)


def learned(method, kind="vit"):
    torch.manual_seed(0)
    options = {"seed": 0, "epochs": 1, "batch_size": 6, "device": "cpu", "quiet": True}
    learner = Learner(method.build(tiny.backbone(kind)), **options)
    learner.run(stream(kind))
    return learner


@pytest.mark.parametrize(
    ("of", "options"), [("ncm", {}), ("slda", {"shrinkage": 0.1}), ("ridge", {"ridge": 0.5})]
)
def test_a_closed_form_method_answers_the_same_in_sequence_and_jointly(of, options):
    joint = Joint(of=of, options=options)
    once, parts = learned(joint), learned(joint.inner)
    x = tiny.raw("vit", 30, seed=5)
    order = [parts.classes.index(c) for c in once.classes]
    assert parts.classes != once.classes, "the columns come in another order"
    a, b = once.predict_proba(x), parts.predict_proba(x)[:, order]
    assert np.allclose(a, b, atol=1e-5)
    assert np.array_equal(once.predict(x), parts.predict(x))


def test_joint_training_of_slca_is_its_slow_learner():
    learner = learned(Joint(of="slca", options={"epochs": 1, "per_class": 4}))
    assert len(learner.model.tasks) == 1
    assert learner.model.rates == {"trunk": 0.01}
    assert len(learner.model.rules[1].gaussians) == 6
    assert np.isfinite(learner.matrix.values[-1]).all()


@pytest.mark.parametrize("of", ["ewc", "lwf", "replay", "der_plus_plus"])
@pytest.mark.parametrize(("tune", "left"), [("all", "fine_tune"), ("head", "linear_head")])
def test_what_only_guards_the_past_is_refused_with_the_reason(of, tune, left):
    joint = Joint(of=of, options={"tune": tune})
    with pytest.raises(ConfigError, match=f"guards what earlier tasks taught.*of = '{left}'"):
        joint.build(tiny.backbone("vit"))
    with pytest.raises(ConfigError, match="guards what earlier tasks"):
        _ = joint.settings
