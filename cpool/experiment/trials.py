"""The stream that trials run on, and one trial: learn the tasks once, judge on validation data."""

from dataclasses import replace

import numpy as np

from cpool.backbones import Backbone, Truncations
from cpool.errors import ConfigError
from cpool.experiment.config import Experiment, SearchPlan
from cpool.experiment.parts import open_stream
from cpool.learner import Learner
from cpool.streams import Examples, Stream, Task
from cpool.streams._splits import draw_per_class

__all__ = ["run_trial", "trial_stream"]


def trial_stream(
    experiment: Experiment, plan: SearchPlan, backbone: Backbone | None = None
) -> Stream:
    """Build the stream of the trials: validation data in the place of the test data.

    Args:
        experiment: whose stream it is.
        plan: the split, the seed, and what makes a trial cheaper: fewer samples of a class to
            learn from or to judge on (drawn with the plan's seed), and the first tasks only.
        backbone: what must be able to read the stream; unchecked when None.

    Raises:
        ConfigError: options that do not fit the stream.
        DataError: a task without validation data.
    """
    options = dict(experiment.stream)
    if plan.validation is not None:
        options["validation"] = plan.validation
    changed = replace(experiment, stream=options, evaluate="validation")
    stream = open_stream(changed, plan.seed, backbone)
    wanted = len(stream) if plan.first_tasks is None else plan.first_tasks
    if wanted > len(stream):
        raise ConfigError(
            expected=f"search.first_tasks up to {len(stream)}, the tasks of {stream.name}",
            got=str(wanted),
            remedy="Lower it, or remove it to use them all.",
        )
    thinned = stream.replaced([_thinned(task, plan) for task in stream])
    return thinned if wanted == len(stream) else _first(thinned, wanted)


def _thinned(task: Task, plan: SearchPlan) -> Task:
    def part(examples: Examples, size: int | None, tag: int) -> Examples:
        if size is None:
            return examples
        return examples.take(draw_per_class(examples.y, size, (plan.seed, tag, task.index)))

    return replace(
        task,
        train=part(task.train, plan.train_per_class, 5),
        test=part(task.test, plan.validation_per_class, 6),
    )


def _first(stream: Stream, number: int) -> Stream:
    """Return the first tasks as a stream of its own, whose labels count its own classes only."""
    tasks = stream[:number]
    kept = sorted({label for task in tasks for label in task.classes})
    new = {label: position for position, label in enumerate(kept)}

    def renumbered(part: Examples) -> Examples:
        y = np.array([new[label] for label in part.y.tolist()], dtype=np.int64)
        return replace(part, y=y)

    return stream.replaced(
        [
            replace(
                task,
                classes=tuple(new[label] for label in task.classes),
                train=renumbered(task.train),
                validation=renumbered(task.validation),
                test=renumbered(task.test),
            )
            for task in tasks
        ],
        class_names=[stream.class_names[label] for label in kept],
        class_order=[new[label] for label in stream.class_order if label in new],
        true_labels={i: new[y] for i, y in stream.true_labels.items() if y in new},
    )


def run_trial(learner: Learner, stream: Stream) -> list[float]:
    """Learn the tasks in turn and return the accuracy on each after the last one.

    It is `Learner.run` without checkpoints and without the rows in between: a trial is judged by
    the last row alone.
    """
    method = learner.model.method
    joint = method is not None and method.joint
    learner.model.name_classes(stream.class_names)  # which `Learner.run` does
    with Truncations().once():
        for task in [stream.joint()] if joint else stream:
            learner.fit_task(task)
        return learner.evaluate(stream)
