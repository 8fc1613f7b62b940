"""What training costs, counted while it trains: what is thrown away, in buffers, or resumed."""

import pytest
import torch
from torch import nn

from cpool.data import PreparedCache
from cpool.learner import Learner
from cpool.meter import TrainedCount, trained_parameters
from cpool.methods import METHODS
from cpool.seeding import seeded
from tests import tiny
from tests.common.tasks import build, stream

LAYERS, WIDTH, CLASSES = tiny.backbone("vit").num_layers, tiny.WIDTH, 6
PREFIX = 2 * LAYERS * WIDTH  # keys and values of one token on all layers


def run(name: str, **options) -> Learner:
    with seeded(0, "build"):
        model = METHODS[name](**options).build(tiny.backbone("vit"))
    learner = Learner(model, epochs=1, batch_size=6, device="cpu", quiet=True)
    learner.run(stream("vit"))
    return learner


def count(learner: Learner) -> int:
    return trained_parameters(learner.model, learner.trained)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # A prefix of the first task, and the probe of its two classes, which is thrown away.
        ("first_session_prompt", {"length": 3}, 3 * PREFIX + 2 * WIDTH),
        (
            "prompt_ridge",
            {"length": 3, "projection": 8, "domains": "one", "layers": 0.0},
            3 * PREFIX + 2 * WIDTH,
        ),
        # A random prefix lies in the model, and nothing ever trains it.
        ("prompt_ridge", {"length": 3, "projection": 8, "prompt": "random"}, 0),
        ("ranpac", {"projection": 8}, 0),
        # Rows of earlier tasks go on training, and count once.
        ("linear_head", {}, CLASSES * (WIDTH + 1)),
        ("linear_head", {"freeze_old": True}, CLASSES * (WIDTH + 1)),
        # A slot and a key a task, older ones frozen, and the head.
        (
            "l2p",
            {"slots_per_task": 1, "top_k": 1, "length": 4},
            3 * (4 * WIDTH + WIDTH) + CLASSES * (WIDTH + 1),
        ),
    ],
)
def test_what_trained_is_counted_once(name, options, expected):
    assert count(run(name, **options)) == expected


def test_a_network_that_lies_in_buffers_is_counted_too():
    learner = run("hide_prompt", length=2, layers=(0,), infer_epochs=1, align_epochs=1, per_class=4)
    # q + W₂ GELU(W₁ q + b₁) + b₂ with 2 Q rows, gain and shift of the norm, a row a class
    network = 2 * WIDTH * (WIDTH + 1) + WIDTH * (2 * WIDTH + 1) + 2 * WIDTH + CLASSES * (WIDTH + 1)
    prefixes, head = 3 * 2 * 2 * WIDTH, CLASSES * (WIDTH + 1)
    assert learner.trained.total == prefixes + head
    assert count(learner) == prefixes + head + network


@pytest.mark.parametrize("row", ["first_session_prompt", "hide_prompt", "l2p", "linear_head"])
def test_a_resumed_run_counts_the_same(row, tmp_path):
    whole, first = build(row, "vit"), build(row, "vit")
    whole.run(stream("vit"))
    first.fit_task(stream("vit")[0])
    first.save(tmp_path)
    second = build(row, "vit").resume(tmp_path)
    assert second.trained.total == first.trained.total > 0
    for task in stream("vit")[1:]:
        second.fit_task(task)
    assert count(second) == count(whole)
    assert count(second) > first.trained.total or row == "first_session_prompt"


def test_a_checkpoint_from_before_the_count_has_what_is_in_it():
    learner = run("linear_head")
    again = TrainedCount(learner.model)
    assert again.total == learner.trained.total
    again.add(learner.model)
    assert again.total == learner.trained.total


def test_an_id_that_was_used_before_is_another_parameter():
    holder = METHODS["ncm"]().build(tiny.backbone("vit"))
    counted, places = TrainedCount(holder), set()
    for number in range(1, 50):
        holder.only = nn.Parameter(torch.zeros(3))
        places.add(id(holder.only))
        counted.add(holder)
        assert counted.total == 3 * number
        del holder.only
    assert len(places) < 49, "none took the place of an earlier one: nothing was tested"


@pytest.mark.parametrize("row", ["ncm", "l2p", "oneprompt"])
def test_the_timed_evaluation_prepares_each_image_once(row, monkeypatch):
    learner, backbone = build(row, "vit"), tiny.backbone("vit")
    learner.run(stream("vit"))
    images, real = [], backbone.prepare

    def prepare(x, **options):
        images.append(len(x))
        return real(x, **options)

    monkeypatch.setattr(backbone, "prepare", prepare)
    kept = PreparedCache()
    learner.feed.prepared = kept
    expected = learner.evaluate(stream("vit"))
    images.clear()
    assert learner.evaluate(stream("vit"), cached=False) == expected
    # One more a split, from which the size of the whole is known.
    assert sum(images) == sum(len(task.test) + 1 for task in stream("vit"))
    images.clear()
    assert learner.evaluate(stream("vit")) == expected
    assert not images
