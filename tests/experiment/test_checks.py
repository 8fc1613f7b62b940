"""What is refused before anything trains, and what a trial measures where the task is told."""

import numpy as np
import pytest

from cpool.errors import ConfigError, DataError
from cpool.experiment.checks import check_row
from cpool.experiment.trials import run_trial
from cpool.learner import Learner
from cpool.methods import Joint, LinearHead, Method, ProgressivePrompts
from cpool.streams import class_incremental, task_incremental
from tests import tiny

OPTIONS = {"epochs": 1, "batch_size": 6, "device": "cpu", "quiet": True}


def learner(method: Method) -> Learner:
    return Learner(method.build(tiny.backbone("vit")), **OPTIONS)


def check(method: Method, stream) -> None:
    check_row(method, learner(method), stream)


def test_joint_training_is_judged_by_all_classes_of_a_stream_of_one_class_tasks():
    x, y = tiny.raw("vit", 12), np.repeat(np.arange(3), 4)
    single = class_incremental(x, y, x, y, tasks=3, seed=0, validation=0)
    assert all(len(task.classes) == 1 for task in single)
    with pytest.raises(DataError, match="at least two classes a task"):
        check(LinearHead(), single)
    joint = Joint(of="linear_head")
    check(joint, single)
    assert np.isfinite(learner(joint).run(single).values[-1]).all()


def test_a_method_that_must_be_told_the_task_is_refused_jointly_too():
    x, y = tiny.raw("vit", 24), np.repeat(np.arange(4), 6)
    method = ProgressivePrompts(length=2)
    joint = Joint(of="progressive_prompts", options={"length": 2})
    for row in (method, joint):
        check(row, task_incremental(x, y, x, y, tasks=2, seed=0, validation=0))
        with pytest.raises(ConfigError, match="'progressive_prompts'"):
            check(row, class_incremental(x, y, x, y, tasks=2, seed=0, validation=0))


def test_a_trial_of_joint_training_measures_what_its_run_does_where_the_task_is_told():
    x, y = tiny.raw("vit", 36), np.repeat(np.arange(6), 6)
    told = task_incremental(x, y, x, y, tasks=3, seed=0, validation=0)
    joint = Joint(of="ncm")
    last = learner(joint).run(told).values[-1].tolist()
    assert run_trial(learner(joint), told) == pytest.approx(last)
