"""S-Prompts against the numbers of its code, on domains, and on tasks of different classes."""

import numpy as np
import pytest
import torch

from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import SPrompts
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import stream, trained
from tests.golden_vit import golden_backbone, images
from tests.methods.test_golden import close, set_

CLASSES = ([0, 1], [2, 3], [4, 5])


@pytest.fixture
def golden():
    backbone, file = golden_backbone("sprompts.safetensors")
    model = SPrompts(length=2).build(backbone)
    branch = model.prompter.branches["domain"]
    for domain, classes in enumerate(CLASSES):
        model.begin_task(classes)
        set_(branch.pool.blocks[domain][0, 0], file["prompts"][domain])
        expert = model.head.experts[domain]
        set_(expert.weights[0], file["heads.weight"][domain])
        set_(expert.biases[0], file["heads.bias"][domain])
    branch.policy.centroids.copy_(file["keys"])
    branch.policy.fitted[:] = True
    branch.pool.mark_trained(torch.arange(3)[None])
    return model.eval(), branch, file


def test_routing_features_and_logits_are_those_of_the_code(golden):
    model, branch, file = golden
    query = model.query(images(file))
    assert close(torch.nn.functional.normalize(query, dim=1), file["query_normalised"])
    assert close(branch.policy.distance(query), file["distance_l1"], 1e-4)
    out = model(images(file))
    chosen = out.selections["domain"].index[:, 0]
    assert torch.equal(chosen, file["selection"].long())
    l2 = file["distance_l2_squared_not_used"].argmin(dim=1)
    assert not torch.equal(chosen, l2), "the golden file tells L1 and L2 apart"
    assert close(out.features, file["features"])
    columns = 2 * chosen[:, None] + torch.arange(2)
    assert close(out.logits.gather(1, columns), file["logits"])
    assert torch.isfinite(out.logits).sum(dim=1).tolist() == [2] * 10
    assert torch.equal(out.logits.argmax(dim=1) - 2 * chosen, file["pred_top1"].long())


def test_the_other_distance_chooses_as_the_file_says(golden):
    model, branch, file = golden
    other = SPrompts(length=2, metric="l2").build(model.backbone)
    policy = other.prompter.branches["domain"].policy
    policy.grow(3)
    policy.centroids.copy_(branch.policy.centroids)
    policy.fitted[:] = True
    chosen = policy(model.query(images(file))).index[:, 0]
    assert torch.equal(chosen, file["distance_l2_squared_not_used"].argmin(dim=1))


def test_training_gives_every_sample_the_domain_that_learns(golden):
    model, _, file = golden
    out = model(images(file), task=1)
    assert close(out.features, file["train_forward_task1.features"])
    assert close(out.logits[:, 2:4], file["train_forward_task1.logits"])


def test_centres_are_those_of_k_means_on_the_normalised_features(golden):
    """Order and ties depend on the version of scikit-learn; how well the centres fit does not."""
    _, branch, file = golden
    for domain in range(3):
        rows = file["train.features_normalised"][domain].double()

        def inertia(centres, rows=rows):
            return sum(min(float((r - c).square().sum()) for c in centres.double()) for r in rows)

        branch.policy.end_task(3.0 * rows.float(), domain)  # normalised again: the 3 must not count
        assert inertia(branch.policy.centroids[domain]) <= inertia(file["keys"][domain]) + 1e-6


def domains():
    """Return three domains, which differ in their bright columns, of two classes: bright rows."""
    rng, made = np.random.default_rng(0), []
    for domain in range(3):
        y = np.repeat([0, 1], 8)
        x = rng.integers(0, 40, (16, 10, 12, 3), dtype=np.uint8)
        x[:, :, 4 * domain : 4 * domain + 4] += 100
        x[y == 1, :5] += 120
        made.append((x, y))
    return made


def test_a_stream_of_domains_has_a_head_a_domain_and_old_ones_stay():
    with seeded(0, "build"):
        model = SPrompts(length=2, centroids=3).build(tiny.backbone("vit"))
    learner = Learner(model, epochs=20, lr=0.05, batch_size=8, device="cpu", quiet=True)
    kept = {}
    for domain, data in enumerate(domains()):
        learner.fit_task(data)
        now = model.state_dict()
        assert all(torch.equal(now[n], t) for n, t in kept.items()), "a finished domain moved"
        kept = {n: t.clone() for n, t in now.items() if "experts" in n or ".blocks." in n}
        assert len(kept) == 3 * (domain + 1)
    assert model.classes == [0, 1]
    old = [p for expert in list(model.head.experts)[:-1] for p in expert.parameters()]
    assert len(old) == 4 and not any(p.requires_grad for p in old)
    for domain, (x, y) in enumerate(domains()):
        said = learner.explain(x)
        assert (said.slots["domain"][:, 0] == domain).mean() > 0.9
        assert np.isfinite(said.probabilities).all()
        assert (said.labels == y).mean() > 0.7


def test_a_stream_of_classes_answers_among_the_classes_of_the_chosen_expert():
    learner = trained("sprompts", "vit").learner
    x = np.concatenate([task.test.x for task in stream("vit")])
    said = learner.explain(x)
    for row, slot in zip(said.probabilities, said.slots["domain"][:, 0], strict=True):
        possible = {c for c, p in zip(learner.classes, row, strict=True) if p > 0}
        assert possible == set(stream("vit")[int(slot)].classes)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="centroids at least 1"):
        SPrompts(centroids=0)
    with pytest.raises(ConfigError, match="init above 0"):
        SPrompts(init=-1.0)
