"""Ridge on the features themselves: scikit-learn's, whatever the cut into tasks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model

from cpool.errors import ConfigError
from cpool.methods import Ridge
from tests import tiny


@given(
    n=st.integers(6, 70),
    cuts=st.integers(1, 5),
    ridge=st.sampled_from([0.01, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_in_sequence_it_is_the_joint_ridge_of_scikit_learn(n, cuts, ridge, seed):
    """Below and above as many samples as features (32), where the form that is solved changes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, tiny.WIDTH, generator=generator)
    y = torch.randint(4, (n,), generator=generator)
    model = Ridge(ridge=ridge).build(tiny.backbone("vit"))
    for part in torch.arange(n).chunk(cuts):
        model.begin_task(sorted(set(y[part].tolist())))
        model.end_task([{"query": x[part], "labels": y[part]}])
    query = torch.randn(5, tiny.WIDTH, generator=generator)
    with torch.no_grad():
        logits = model.eval()({"query": query}).logits
    targets = np.stack([(y == c).numpy() for c in model.classes], axis=1).astype(float)
    peer = linear_model.Ridge(alpha=ridge, fit_intercept=False, solver="svd")
    peer.fit(x.double().numpy(), targets)
    expected = peer.predict(query.double().numpy()).reshape(5, -1)
    assert np.allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_nothing_is_projected():
    head, rows = Ridge().build(tiny.backbone("vit")).head, torch.randn(3, tiny.WIDTH)
    assert torch.equal(head.expand(rows), rows)
    assert not Ridge().trains


@pytest.mark.parametrize("ridge", [0.0, float("nan"), -1.0])
def test_bad_settings(ridge):
    with pytest.raises(ConfigError, match="ridge above 0 and finite"):
        Ridge(ridge=ridge)
