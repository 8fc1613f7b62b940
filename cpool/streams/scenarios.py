"""Class-, task- and domain-incremental streams over data of your own."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cpool.errors import ConfigError, DataError
from cpool.streams._source import Source, fingerprint, read_source
from cpool.streams._splits import (
    ClassOrder,
    Tasks,
    check_seed,
    check_validation,
    divide_classes,
    held_out,
)
from cpool.streams.base import Examples, Stream, Task

__all__ = ["class_incremental", "domain_incremental", "task_incremental"]


def class_incremental(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    tasks: Tasks = 5,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    class_order: ClassOrder = None,
    task_names: Sequence[str] | None = None,
    validation: float | int = 0.1,
    scenario: Literal["class", "task"] = "class",
    name: str = "class_incremental",
) -> Stream:
    """Build a stream in which every task brings classes of its own, and no task id at test.

    Args:
        x: training inputs: uint8 images [n H W] or [n H W 1|3] (or float in [0, 1]), float
            features [n Q], texts, or `ImagePaths`; arrays, tensors (then also [n 3 H W]) or
            lists. With `y=None`, a map-style data set that yields (x, y); it is read once.
        y: training labels, integers 0..C-1 [n].
        x_test: test inputs, like `x`.
        y_test: test labels, like `y`.
        tasks: how many tasks; the first C mod tasks of them get one class more. Or the classes
            of each task, as lists of labels or names.
        seed: shuffles the classes and draws the validation split, with generators of its own.
        class_names: one name a class; by default "0", "1", ….
        class_order: labels or names in order of arrival, instead of the seeded order.
        task_names: one name a task; by default made of its classes.
        validation: fraction of each class's training examples to hold out, in [0, 1); a class
            of two examples or more gives at least one and keeps at least one.
        scenario: "task" if a learner may know the task of a test example.
        name: what results call the stream.

    Raises:
        DataError: inputs or labels of a wrong kind; the message says which.
        ConfigError: tasks, order, names, seed or validation that do not fit the classes.

    >>> x = np.zeros((8, 4, 4), dtype=np.uint8)
    >>> y = [0, 0, 1, 1, 2, 2, 3, 3]
    >>> stream = class_incremental(x, y, x, y, tasks=2, class_order=[3, 1, 0, 2])
    >>> [task.classes for task in stream]
    [(3, 1), (0, 2)]
    >>> stream[0].train.ids.tolist(), stream[0].test.ids.tolist()
    ([2, 6], [10, 11, 14, 15])
    """
    source = read_source(x, y, x_test, y_test, class_names)
    return by_class(
        source,
        tasks=tasks,
        seed=seed,
        class_order=class_order,
        task_names=task_names,
        validation=validation,
        scenario=scenario,
        name=name,
    )


def task_incremental(x: Any, y: Any, x_test: Any, y_test: Any, **options: Any) -> Stream:
    """Build the stream of `class_incremental`, with the task of each test example known.

    Arguments and errors are those of `class_incremental`.

    >>> x, y = ["good", "bad", "cat", "dog"], [0, 1, 2, 3]
    >>> task_incremental(x, y, x, y, tasks=2, validation=0).scenario
    'task'
    """
    options = {"name": "task_incremental", **options, "scenario": "task"}
    return class_incremental(x, y, x_test, y_test, **options)


def by_class(
    source: Source,
    *,
    tasks: Tasks,
    seed: int,
    validation: float | int,
    name: str,
    class_order: ClassOrder = None,
    task_names: Sequence[str] | None = None,
    scenario: Literal["class", "task"] = "class",
) -> Stream:
    """Cut a checked source into tasks by class; what every class-incremental builder ends in.

    Raises:
        ConfigError: as in `class_incremental`, or a scenario that is neither "class" nor "task".
    """
    if scenario not in ("class", "task"):
        raise ConfigError(
            expected='scenario "class" or "task"',
            got=repr(scenario),
            remedy='Use "task" only if a learner may know the task at test.',
        )
    seed, fraction = check_seed(seed), check_validation(validation)
    groups = divide_classes(source.class_names, tasks, seed, class_order)
    names = _task_names(groups, source.class_names, task_names)
    held = held_out(source.train.y, fraction, (seed, 0))
    made = []
    for index, classes in enumerate(groups):
        mine = np.isin(source.train.y, classes)
        made.append(
            Task(
                index=index,
                name=names[index],
                classes=classes,
                train=source.train.take(mine & ~held),
                validation=source.train.take(mine & held),
                test=source.test.take(np.isin(source.test.y, classes)),
            )
        )
    return Stream(
        made,
        name=name,
        scenario=scenario,
        modality=source.modality,
        seed=seed,
        class_names=source.class_names,
        class_order=[c for group in groups for c in group],
        fingerprint=source.fingerprint,
    )


def _task_names(
    groups: Sequence[Sequence[int]], class_names: Sequence[str], given: Sequence[str] | None
) -> list[str]:
    if given is None:
        few = max(len(group) for group in groups) <= 3
        return [
            " + ".join(class_names[c] for c in group) if few else f"task {index}"
            for index, group in enumerate(groups)
        ]
    if len(given) != len(groups):
        raise ConfigError(
            expected=f"{len(groups)} task names, one a task",
            got=f"{len(given)} names",
            remedy="Name every task, or leave the names out.",
        )
    return list(given)


def domain_incremental(
    domains: Sequence[tuple[Any, Any, Any, Any]],
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    validation: float | int = 0.1,
    shuffle: bool = False,
    name: str = "domain_incremental",
) -> Stream:
    """Build a stream in which every task has all classes, and inputs of a domain of its own.

    Args:
        domains: one `(x, y, x_test, y_test)` a domain, each as in `class_incremental`.
        seed: draws the validation split, and the order of domains with `shuffle=True`.
        names: one name a domain; by default "domain 0", "domain 1", ….
        class_names: one name a class, the same classes in every domain.
        validation: fraction of the examples of each class and domain to hold out, in [0, 1).
        shuffle: let the seed decide the order of domains; otherwise it is the order given.
        name: what results call the stream.

    Raises:
        DataError: no domain, one of another kind or with other classes than the first, or
            anything that `class_incremental` refuses.
        ConfigError: names, seed or validation that do not fit.

    >>> x, y = ["yes", "no"], [0, 1]
    >>> stream = domain_incremental([(x, y, x, y), (["ja", "nein"], y, x, y)], validation=0)
    >>> [task.name for task in stream], stream[1].train.ids.tolist()
    (['domain 0', 'domain 1'], [4, 5])
    """
    seed, fraction = check_seed(seed), check_validation(validation)
    sources = [read_source(*domain, class_names) for domain in domains]
    _check_domains(sources)
    names = [f"domain {i}" for i in range(len(sources))] if names is None else names
    names = _task_names([[0]] * len(sources), class_names or (), names)
    sources = _numbered(sources)
    order = np.arange(len(sources))
    if shuffle:
        order = np.random.default_rng(seed).permutation(len(sources))
    classes = tuple(range(len(sources[0].class_names)))
    made = []
    for index, domain in enumerate(order.tolist()):
        train = sources[domain].train
        held = held_out(train.y, fraction, (seed, 3, domain))
        split = (train.take(~held), train.take(held), sources[domain].test)
        made.append(Task(index, names[domain], classes, *split))
    return Stream(
        made,
        name=name,
        scenario="domain",
        modality=sources[0].modality,
        seed=seed,
        class_names=sources[0].class_names,
        class_order=classes,
        fingerprint=sources[0].fingerprint,
    )


def _check_domains(sources: Sequence[Source]) -> None:
    if not sources:
        raise DataError(
            expected="at least one domain", got="none", remedy="Pass (x, y, x_test, y_test) tuples."
        )
    first = (sources[0].modality, sources[0].class_names)
    for i, source in enumerate(sources):
        if (source.modality, source.class_names) != first:
            raise DataError(
                expected=f"every domain like the first, {first[0]} of {len(first[1])} classes",
                got=f"{source.modality} of {len(source.class_names)} classes in domain {i}",
                remedy="Use class_incremental if the tasks differ in their classes.",
            )


def _numbered(sources: Sequence[Source]) -> list[Source]:
    """Count the ids on from domain to domain, and let one fingerprint cover all domains."""
    digest = fingerprint([source.fingerprint for source in sources])
    numbered, offset = [], 0
    for s in sources:
        splits = [Examples(e.x, e.y, e.ids + offset, digest) for e in (s.train, s.test)]
        numbered.append(Source(splits[0], splits[1], s.class_names, s.modality, digest))
        offset += len(s.train) + len(s.test)
    return numbered
