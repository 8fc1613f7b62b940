"""Replay: what a memory keeps and gives back, and the loss on it, against loops."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpool.errors import ConfigError
from cpool.meter import stored_bytes
from cpool.methods import Replay
from cpool.rules.memory import Memory, inputs_of, opened
from tests import tiny


def offered(memory, labels, cuts):
    """Offer numbered samples in pieces; return their priorities."""
    numbers, priorities = torch.arange(len(labels), dtype=torch.float), []
    rand = torch.rand

    def noted(*args, **kwargs):
        priorities.append(rand(*args, **kwargs))
        return priorities[-1]

    with patch("cpool.rules.memory.torch.rand", noted):
        for part in torch.arange(len(labels)).split(cuts):
            memory.add({"number": numbers[part, None]}, torch.tensor(labels)[part])
    return torch.cat(priorities).tolist()


def kept(memory):
    return sorted(int(v) for v in memory.get_buffer("x_number")[:, 0])


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    size=st.integers(1, 20),
    cuts=st.integers(1, 40),
    keep=st.sampled_from(["reservoir", "class"]),
)
@settings(max_examples=60)
def test_what_is_kept_does_not_depend_on_how_the_stream_was_cut(labels, size, cuts, keep):
    memory = Memory(size, keep)
    priority = offered(memory, labels, cuts)
    if keep == "reservoir":
        order = sorted(range(len(labels)), key=lambda i: priority[i])
    else:
        rank = [
            sum(priority[j] < priority[i] for j in range(len(labels)) if labels[j] == labels[i])
            for i in range(len(labels))
        ]
        order = sorted(range(len(labels)), key=lambda i: (rank[i], priority[i]))
    assert kept(memory) == sorted(order[:size])
    rows = memory.get_buffer("x_number")[:, 0].long().tolist()
    assert memory.labels.tolist() == [labels[i] for i in rows], "rows of one sample stay together"
    assert memory.priority.tolist() == [priority[i] for i in rows]
    assert len(memory) == min(size, len(labels)), "a memory larger than the stream keeps all"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 30))
@settings(max_examples=40)
def test_classes_are_balanced_as_far_as_they_have_samples(labels, size):
    memory = Memory(size, "class")
    offered(memory, labels, 7)
    counts = {c: memory.labels.tolist().count(c) for c in set(labels)}
    for a in counts:
        for b in counts:
            short = counts[a] == labels.count(a)
            assert short or counts[b] <= counts[a] + 1, (a, b, counts)


def test_every_sample_of_the_stream_is_as_likely_to_stay():
    counts, runs = torch.zeros(30), 1500
    for _ in range(runs):
        memory = Memory(6)
        offered(memory, list(range(30)), 7)
        counts[kept(memory)] += 1
    expected = runs * 6 / 30
    chi_square = float(((counts - expected) ** 2 / (expected * (1 - 6 / 30))).sum()) * 29 / 30
    assert chi_square < 58.3, "the 0.1 % point of chi square with 29 degrees of freedom"


def test_a_draw_has_different_samples_all_equally_likely():
    memory = Memory(5)
    offered(memory, [0, 1, 2, 3, 4], 5)
    counts = torch.zeros(5)
    for _ in range(400):
        drawn = memory.draw(2)
        assert len(set(drawn["labels"].tolist())) == 2
        assert drawn["number"][:, 0].tolist() == drawn["labels"].tolist()
        counts[drawn["labels"]] += 1
    assert counts.min() > 120, counts
    assert sorted(memory.draw(99)["labels"].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", tiny.ENCODERS + tiny.DECODERS)
def test_texts_of_different_padding_come_back_with_the_same_features(kind):
    backbone = tiny.backbone(kind)
    model = Replay(tune="all").build(backbone)
    short, long = tiny.batch(kind, 3, seed=1), tiny.padded(tiny.batch(kind, 4, seed=2), 3, "left")
    memory = Memory(7)
    memory.add(inputs_of(model, short), torch.arange(3))
    memory.add(inputs_of(model, long), torch.arange(3, 7))
    features = torch.cat([backbone.query(short), backbone.query(long)])
    for n in (7, 2):
        drawn = opened(memory.draw(n))
        assert drawn["attention_mask"].sum(1).max() == drawn["input_ids"].shape[1]
        back = backbone.query(drawn)
        assert torch.allclose(back, features[drawn["labels"]], atol=1e-5)
    assert memory.get_buffer("x_input_ids").dtype == torch.int32


def test_images_come_back_as_they_were():
    model = Replay().build(tiny.backbone("vit"))
    batch = {**tiny.batch("vit", 4), "labels": torch.arange(4)}
    memory = Memory(4)
    memory.add(inputs_of(model, batch), batch["labels"])
    drawn = opened(memory.draw(4))
    assert torch.equal(drawn["pixel_values"], batch["pixel_values"][drawn["labels"]])


@pytest.mark.parametrize("tune", ["all", "head"])
def test_what_is_remembered_is_counted_to_the_byte(tune):
    model = Replay(size=5, tune=tune).build(tiny.backbone("vit"))
    model.begin_task([0, 1])
    before = stored_bytes(model)
    batch = {**tiny.batch("vit", 8), "labels": torch.arange(8) % 2}
    model.end_task([batch])
    one = 4 * (3 * tiny.IMAGE**2 if tune == "all" else tiny.WIDTH)  # float32 inputs or features
    assert stored_bytes(model) - before == 5 * (one + 8 + 8), "label and priority, 8 bytes each"


def remembering(tune, kind="vit", **options):
    """Return a model in its second task that remembers all six samples of the first."""
    model = Replay(size=6, tune=tune, **options).build(tiny.backbone(kind))
    model.mask = "seen"
    model.begin_task([5, 3])
    past = {**tiny.batch(kind, 6, seed=1), "labels": torch.tensor([5, 3, 3, 5, 5, 3])}
    model.end_task([past])
    model.begin_task([1, 2])
    return model, past, {**tiny.batch(kind, 6, seed=2), "labels": torch.tensor([1, 2, 2, 1, 1, 1])}


@pytest.mark.parametrize("tune", ["all", "head"])
def test_the_loss_and_its_gradient_are_those_of_the_samples_remembered(tune):
    model, past, batch = remembering(tune)  # this ViT has no dropout
    out = model.train()(batch, task=1)
    out.losses["replay"].backward()
    got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    source = model.trunk if tune == "all" else model.backbone
    weight, bias = torch.cat(list(model.head.weights)), torch.cat(list(model.head.biases))
    logits = source.features(past) @ weight.T + bias
    total = sum(
        -(row[{5: 1, 3: 0}[label]] - row.exp().sum().log())
        for row, label in zip(logits, past["labels"].tolist(), strict=True)
    )
    (total / 6).backward()
    assert model.classes == [3, 5, 1, 2], "all four compete"
    assert out.losses["replay"].item() == pytest.approx(float((total / 6).detach()), rel=1e-5)
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=1e-3, atol=1e-6), name


def test_the_new_batch_competes_with_all_classes_seen_unless_masked():
    """ER-ACE: with mask="task" only the new batch is masked."""
    model, _, batch = remembering("head")
    losses = {}
    for mask in ("seen", "task"):
        model.mask = mask
        losses[mask] = model.train()(batch, task=1).losses
    assert losses["seen"]["cross_entropy"].item() > losses["task"]["cross_entropy"].item()
    same = [losses[mask]["replay"].item() for mask in losses]
    assert same[0] == pytest.approx(same[1], rel=1e-5)
    assert Replay().settings.mask == Replay(tune="head").settings.mask == "seen"


def test_as_many_are_drawn_as_asked_for():
    for asked, expected in ((None, 6), (2, 2), (50, 6)):
        model, _, batch = remembering("head", batch=asked)
        sizes, answer = [], model.answer
        model.answer = lambda b, *a, s=sizes, f=answer, **k: (
            s.append(len(b["labels"])) or f(b, *a, **k)
        )
        model.train()(batch, task=1)
        assert sizes == [6, expected]


def test_it_forgets_less_than_without_a_memory():
    """On one direction a class, a head alone: what replay is for."""
    accuracy = {}
    for size in (1, 40):
        torch.manual_seed(0)
        model = Replay(size=size, tune="head").build(tiny.backbone("vit"))
        model.mask = "seen"
        parts = []
        for task in range(3):
            labels = torch.arange(20) % 2 + 2 * task
            query = torch.nn.functional.one_hot(labels, tiny.WIDTH) * 3.0
            parts.append({"query": query + torch.randn(20, tiny.WIDTH), "labels": labels})
            model.begin_task([2 * task, 2 * task + 1])
            optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
            for _ in range(30):
                optimizer.zero_grad()
                model.train()(parts[-1], task=task).loss.backward()
                optimizer.step()
            model.end_task([parts[-1]])
        with torch.no_grad():
            right = [
                (model.eval()(p).logits.argmax(1) == p["labels"]).float().mean() for p in parts
            ]
        accuracy[size] = float(right[0])
    assert accuracy[40] > accuracy[1] + 0.2, accuracy


@pytest.mark.parametrize(
    ("options", "says"), [({"size": 0}, "size at least 1"), ({"batch": 0}, "batch at least 1")]
)
def test_bad_settings(options, says):
    with pytest.raises(ConfigError, match=says):
        Replay(**options)
    with pytest.raises(ConfigError, match="size of at least 1"):
        Memory(0)
