"""Domain-incremental streams over data of your own: the same classes, new inputs."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cpool.errors import DataError
from cpool.streams._assemble import task_names_of
from cpool.streams._checks import check_flag, check_seed, check_validation
from cpool.streams._source import Source, fingerprint, read_source
from cpool.streams._splits import held_out
from cpool.streams.base import Examples, Stream, Task

__all__ = ["domain_incremental", "in_domain"]


def domain_incremental(
    domains: Sequence[tuple[Any, Any, Any, Any]],
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    validation: float | int = 0.1,
    shuffle: bool = False,
    name: str = "domain_incremental",
    arrangement: Mapping[str, Any] | None = None,
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
        arrangement: as in `Stream`.

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
    names = [f"domain {i}" for i in range(len(domains))] if names is None else names
    names = task_names_of([[0]] * len(domains), (), names)
    sources = _read_domains(domains, names, class_names)
    order = np.arange(len(sources))
    if check_flag(shuffle, "shuffle"):
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
        arrangement=arrangement,
    )


@contextlib.contextmanager
def in_domain(name: str) -> Iterator[None]:
    """Let errors about the data say in which domain."""
    try:
        yield
    except DataError as error:
        got = f"{error.got} (in {name!r})"
        raise DataError(expected=error.expected, got=got, remedy=error.remedy) from error


def _read_domains(
    domains: Sequence[Any],
    names: Sequence[str],
    class_names: Sequence[str] | None,
) -> list[Source]:
    sources: list[Source] = []
    for domain, name in zip(domains, names, strict=True):
        if not isinstance(domain, tuple | list) or len(domain) != 4:
            got, remedy = type(domain).__name__, "Give test data for every domain."
            raise DataError(expected="(x, y, x_test, y_test) a domain", got=got, remedy=remedy)
        x, y, x_test, y_test = domain
        with in_domain(name):
            source = read_source(x, y, x_test, y_test, class_names)
        first = sources[0] if sources else source
        if (source.modality, source.class_names) != (first.modality, first.class_names):
            raise DataError(
                expected=f"every domain as the first, {first.modality} of "
                f"{len(first.class_names)} classes",
                got=f"{source.modality} of {len(source.class_names)} classes in {name!r}",
                remedy="Use class_incremental if the tasks differ in their classes.",
            )
        sources.append(source)
    if not sources:
        remedy = "Pass a list of (x, y, x_test, y_test)."
        raise DataError(expected="at least one domain", got="none", remedy=remedy)
    return _numbered(sources)


def _numbered(sources: Sequence[Source]) -> list[Source]:
    """Count the ids on from domain to domain, and let one fingerprint cover all domains."""
    digest = fingerprint([source.fingerprint for source in sources])
    numbered, offset = [], 0
    for s in sources:
        splits = [Examples(e.x, e.y, e.ids + offset, digest) for e in (s.train, s.test)]
        numbered.append(Source(splits[0], splits[1], s.class_names, s.modality, digest))
        offset += len(s.train) + len(s.test)
    return numbered
