"""Tasks learned apart on ray workers, and merged, are what one learner learns in sequence."""

import contextlib
import gc
import os

import numpy as np
import pytest
import ray

from cpool.backbones import load_backbone
from cpool.errors import DataError, PoolError, StateError
from cpool.learner import Learner
from cpool.methods import L2P, RanPAC, SPrompts
from cpool.seeding import seeded
from cpool.shards import learn_apart
from cpool.streams import load_stream

pytestmark = pytest.mark.timeout(600)


def embedded():
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - what ray calls it
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def stream():
    return load_stream("split_digits", tasks=3, train_per_class=8)


def new(method) -> Learner:
    backbone = embedded()
    with seeded(0, "build"):
        model = method.build(backbone)
    return Learner(model, seed=0, epochs=1, device="cpu", quiet=True)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("method", "first"),
    [
        (SPrompts(length=2, centroids=2), 0),
        (RanPAC(projection=60, ridge=1.0, first_session=True, length=2), 1),
    ],
    ids=["a prompt a task", "first session"],
)
def test_apart_is_in_sequence(cluster, stream, method, first):
    sequence, learner = new(method), new(method)
    for task in stream:
        sequence.fit_task(task)
    for task in stream[:first]:
        learner.fit_task(task)
    merged = learn_apart(learner, stream, embedded)
    assert merged.done == sequence.done and merged.model.tasks == sequence.model.tasks
    assert merged.evaluate(stream) == sequence.evaluate(stream)
    x = stream[1].test.x[:20]
    assert np.allclose(merged.predict_proba(x), sequence.predict_proba(x), atol=1e-5)
    assert len(learner.done) == first, "the learner that was handed in stays as it was"


def dying():
    os._exit(1)


def failing():
    raise DataError(expected="weights", got="none", remedy="Copy them.")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("load", "error", "said"),
    [
        (dying, StateError, "learns the task 'task [012]'; got 2 that were lost on it"),
        (failing, DataError, "expected weights; got none"),
    ],
)
def test_what_ends_a_task_is_raised_once(cluster, stream, capfd, load, error, said):
    with pytest.raises(error, match=said):
        learn_apart(new(SPrompts(length=2, centroids=2)), stream, load, attempts=2)
    gc.collect()  # the answers of the other tasks, of which ray would print what nobody took
    assert "Unhandled error" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_task_whose_worker_is_lost_is_begun_again(cluster, stream, tmp_path):
    mark = str(tmp_path / "ended")

    def once():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            os._exit(1)
        return embedded()

    merged = learn_apart(new(SPrompts(length=2, centroids=2)), stream, once, attempts=2)
    assert os.path.exists(mark) and merged.done == [task.name for task in stream]


def test_what_does_not_merge_is_refused_before_anything_is_sent(stream):
    with pytest.raises(PoolError, match="whose slots all tasks train"):
        learn_apart(new(L2P(pool_size=4, top_k=2, length=2)), stream, embedded)
    method = RanPAC(projection=60, ridge=1.0, first_session=True, length=2)
    with pytest.raises(StateError, match="before its first task"):
        learn_apart(new(method), stream, embedded)
