"""Learning the tasks of a stream apart, on the workers of a ray cluster, and merging the models."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from cpool.backbones import Backbone
from cpool.checkpoint import load_state
from cpool.errors import StateError, need_extra
from cpool.exact import branch_off, merge
from cpool.learner import Learner
from cpool.settings import TrainSettings
from cpool.streams import Stream, Task

__all__ = ["learn_apart", "lost_errors"]

GRACE = 10.0  # seconds for workers that are told to stop


def learn_apart(
    learner: Learner, stream: Stream, load: Callable[[], Backbone], *, attempts: int = 3
) -> Learner:
    """Learn the tasks that are left of a stream at the same time, and return a learner of all.

    Each task is learned by a worker of its own, from a model without tasks (`branch_off`), and the
    models are merged in the order of the stream: the same as learning one task after the other,
    for the methods of which `cpool.exact` can promise that. What the first task trains for all,
    such as the prompt of a first session, has to be there: let the learner learn that task before.

    ray connects to the cluster that RAY_ADDRESS names, or to one that runs on this machine, or
    starts one here. What travels is a task's data to its worker, and a checkpoint back.

    Args:
        learner: before its first task, or after some.
        stream: of which it has learned the first tasks.
        load: makes the frozen model on a worker, such as `lambda: load_backbone("embedded")`.
        attempts: how often a task whose worker is lost is begun.

    Raises:
        StateError, PoolError: a method whose tasks depend on each other, named before anything is
            sent; or a task whose workers were all lost.
        MissingDependencyError: without ray.
    """
    need_extra("ray")
    import ray

    model = learner.model
    start = branch_off(model)  # refuses what does not merge
    trained = any(branch.lasting for branch in model.prompter or ())
    if trained and not model.tasks:
        raise StateError(
            expected="the prompt of the first session, which all tasks share",
            got="a learner before its first task",
            remedy="Call learner.fit_task(stream[0]) first; the other tasks go to workers.",
        )
    model.name_classes(stream.class_names)
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        empty = Learner(start, learner.train, seed=learner.seed, quiet=True).save(folder).parent
        files = ray.put(_read(empty))
    # Counted here: ray itself would begin a task that is short of memory again for ever.
    remote = ray.remote(max_retries=0, num_cpus=1)(_learn)
    settings = (model.method, learner.train, learner.seed, list(stream.class_names))
    tasks = list(stream[len(learner.done) :])

    def ask(task: Task) -> Any:
        return remote.remote(load, files, *settings, task, torch.get_num_threads())

    with contextlib.closing(_answers(ray, ask, tasks, attempts)) as answers:
        for answer in learner.progress.track(answers, "tasks", len(tasks)):
            model = merge(model, _filled(branch_off(model), answer))
    done = Learner(
        model,
        learner.train,
        seed=learner.seed,
        cache=learner.feed.cache,
        accelerator=learner.accelerator,
        progress=learner.progress,
    )
    done.done = [*learner.done, *(task.name for task in tasks)]
    return done


def lost_errors(ray: Any) -> tuple[type[Exception], ...]:
    """Return the errors of ray that say that a worker, or its answer, was lost.

    An exception of the job itself is a RayTaskError, which can be one of these as well: it has to
    be caught before.

    Args:
        ray: the package.
    """
    errors = ray.exceptions
    return (
        errors.RayActorError,
        errors.WorkerCrashedError,
        errors.OutOfMemoryError,
        errors.NodeDiedError,
        errors.ObjectLostError,
    )


def _answers(
    ray: Any, ask: Callable[[Task], Any], tasks: Sequence[Task], attempts: int
) -> Generator[dict[str, bytes], None, None]:
    """Have all tasks learned at the same time, and yield the checkpoints in their order."""
    running = {ask(task): (task, 0) for task in tasks}
    found: dict[int, dict[str, bytes]] = {}
    try:
        for next_one in tasks:
            while next_one.index not in found:
                (answer,), _ = ray.wait(list(running), num_returns=1)
                task, lost = running.pop(answer)
                try:
                    found[task.index] = ray.get(answer)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error  # what learning it here would have raised
                except lost_errors(ray) as error:
                    if lost + 1 >= attempts:
                        raise StateError(
                            expected=f"a worker that learns the task {task.name!r}",
                            got=f"{lost + 1} that were lost on it ({str(error).splitlines()[0]})",
                            remedy="Look at the cluster: too little memory ends workers. There are "
                            "fewer at a time where ray.init is given a smaller num_cpus.",
                        ) from error
                    running[ask(task)] = task, lost + 1
            yield found.pop(next_one.index)
    finally:
        _stop(ray, list(running))


def _stop(ray: Any, answers: list[Any]) -> None:
    """End what nobody waits for any more, after an error."""
    for answer in answers:
        ray.cancel(answer, force=True)
    if answers:
        # ray prints the error of each answer that nobody has taken.
        for answer in ray.wait(answers, num_returns=len(answers), timeout=GRACE)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(answer)


def _learn(
    load: Callable[[], Backbone],
    files: dict[str, bytes],
    method: Any,
    train: TrainSettings,
    seed: int,
    names: Sequence[str],
    task: Task,
    threads: int,
) -> dict[str, bytes]:
    """On a worker: learn one task, and return the files of a checkpoint."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(threads)
    model = _filled(method.build(load()), files)
    model.name_classes(names)
    learner = Learner(model, train, seed=seed, first=task.index, quiet=True)
    learner.fit_task(task)
    with tempfile.TemporaryDirectory() as folder:
        return _read(learner.save(folder).parent)


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _filled(model: Any, files: dict[str, bytes]) -> Any:
    """Fill a model from the files of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        load_state(model, folder)
    return model
