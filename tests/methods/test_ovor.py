"""Virtual outliers, by loops: where they lie, what they add to the loss, what they may move."""

import math

import pytest
import torch

from cpool.errors import ConfigError
from cpool.methods import OVOR, OnePrompt
from cpool.rules.outliers import VirtualOutliers, kth_distance, outlier_loss, virtual_outliers
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import build, stream


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive_kth(point, rows, k):
    distances = sorted(
        math.sqrt(sum((a - b) ** 2 for a, b in zip(point, row, strict=True))) for row in rows
    )
    return distances[min(k, len(distances)) - 1]


@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_distance_to_the_kth_neighbour_by_loops(k):
    points, rows = draw(5, 4), draw(7, 4, seed=1)
    expected = [naive_kth(p, rows.double().tolist(), k) for p in points.double().tolist()]
    assert kth_distance(points, rows, k).tolist() == pytest.approx(expected, rel=1e-5)


def test_outliers_by_loops():
    features = draw(12, 3)
    torch.manual_seed(5)
    made = virtual_outliers(features, 4, spread=0.5, edge=2, tries=6, neighbours=3)
    torch.manual_seed(5)
    noise = torch.randn(6, 3)
    unit = [(f / f.norm()).double().tolist() for f in features]
    far = [naive_kth(f, unit, 3) for f in unit]
    edge = sorted(range(12), key=lambda i: -far[i])[:2]
    points = [(features[i] + 0.5 * e) for i in edge for e in noise]
    rows = features.double().tolist()
    points.sort(key=lambda p: -naive_kth(p.double().tolist(), rows, 3))
    assert torch.allclose(made, torch.stack(points[:4]), atol=1e-6)


def test_outliers_surround_the_features_and_not_the_origin():
    """The public code forgets to add the features that its noise should surround."""
    features = 50.0 + draw(20, 3)
    made = virtual_outliers(features, 10, spread=0.5, edge=5, tries=6)
    assert (made - 50.0).norm(dim=1).max() < 10


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def test_the_loss_and_its_gradient_by_loops():
    size = torch.tensor([[1.0], [3.0], [5.0], [9.0], [12.0]], dtype=torch.float64)
    inside = (size + draw(5, 3).double()).requires_grad_()
    outside = (size + draw(5, 3, seed=1).double()).requires_grad_()
    low, high = -6.0, -6.0
    expected = 0.0
    for rows, sign, edge in ((inside, 1, low), (outside, -1, high)):
        terms = []
        for row in rows.tolist():
            energy = -math.log(sum(math.exp(x) for x in row))
            terms.append(huber(max(sign * (energy - edge), 0.0)))
        assert any(terms) and not all(terms), "both sides of the threshold"
        expected += sum(terms) / len(terms)
    assert float(outlier_loss(inside, outside, low, high).detach()) == pytest.approx(
        expected, rel=1e-9
    )
    assert torch.autograd.gradcheck(lambda x, y: outlier_loss(x, y, low, high), (inside, outside))


def test_one_step_by_hand():
    """One epoch of one batch: Adam's first step is lr · sign of the gradient."""
    with seeded(0, "build"):
        model = OVOR((0,), (1,), 2, 2).build(tiny.backbone("vit"))
    for classes in ([7, 3], [5, 9]):
        model.begin_task(classes)
    features, labels = draw(8, 32), torch.tensor([5, 9] * 4)
    before = [p.detach().clone() for p in model.head.parameters()]
    rule = VirtualOutliers(0.3, epochs=1, lr=0.01, per_class=3, edge=2, tries=4)
    torch.manual_seed(3)
    rule.end(model, [], features, labels, 1)
    torch.manual_seed(3)
    outliers = virtual_outliers(features, 6, edge=2, tries=4)
    weights = [w.clone().requires_grad_() for w in before[:2]]  # rows of the first task, the second
    biases = [b.clone().requires_grad_() for b in before[2:]]
    inside = features @ weights[1].T + biases[1]
    outside = outliers @ weights[1].T + biases[1]
    cross = -(inside.log_softmax(1)[torch.arange(8), torch.tensor([0, 1] * 4)]).mean()
    (cross + 0.3 * outlier_loss(inside, outside)).backward()
    weight_old, weight_new, bias_old, bias_new = model.head.parameters()
    assert torch.equal(weight_old, before[0]) and torch.equal(bias_old, before[2])
    clear = weights[1].grad.abs() > 1e-4
    step = weight_new.detach() - before[1]
    assert torch.allclose(step[clear], -0.01 * weights[1].grad.sign()[clear], atol=1e-5)
    assert clear.float().mean() > 0.9
    assert torch.allclose(bias_new.detach() - before[3], -0.01 * biases[1].grad.sign(), atol=1e-5)


def test_energies_of_features_and_outliers_come_apart():
    with seeded(0, "build"):
        model = OVOR((0,), (1,), 2, 2).build(tiny.backbone("vit"))
    model.begin_task([0, 1])
    features = torch.cat([3 + draw(30, 32), -3 + draw(30, 32, seed=1)])
    labels = torch.tensor([0] * 30 + [1] * 30)
    options = {"edge": 20, "tries": 20, "neighbours": 5, "spread": 3.0}

    def gap():
        torch.manual_seed(9)
        outliers = virtual_outliers(features, 40, **options)
        inside, outside = (model.head(x).detach().logsumexp(1).mean() for x in (features, outliers))
        return float(inside - outside)

    before = gap()
    VirtualOutliers(1.0, epochs=60, lr=0.02, **options).end(model, [], features, labels, 0)
    assert gap() > before + 1
    assert (model.head(features).argmax(1) == labels).all()
    assert all(p.grad is None for p in model.head.parameters())


def test_the_rule_moves_the_head_and_not_the_prompt():
    options = {"early_layers": (0, 1), "late_layers": (2,), "early_length": 2, "late_length": 3}
    plain, with_rule = build("oneprompt", "vit"), build("ovor", "vit")
    assert plain.model.method == OnePrompt(**options)
    for learner in (plain, with_rule):
        learner.train = OnePrompt.train.but(epochs=2)
        learner.fit_task(stream("vit")[0])
    there, here = plain.model.state_dict(), with_rule.model.state_dict()
    for name in there:
        same = torch.equal(there[name], here[name])
        assert same == (not name.startswith(("head.weights", "head.biases"))), name


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="low at most high"):
        OVOR(low=1.0, high=0.0)
    with pytest.raises(ConfigError, match="sizes of at least 1"):
        OVOR(edge=0)
