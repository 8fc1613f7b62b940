"""Streams of image folders of your own, a folder a domain."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpool.errors import DataError
from cpool.streams._checks import check_seed
from cpool.streams._domain_files import DomainFiles, choose_domains, list_domains
from cpool.streams._folders import labelled
from cpool.streams._locate import check_path
from cpool.streams._source import Source, divide, subset
from cpool.streams._splits import dealt
from cpool.streams.base import Examples, Stream
from cpool.streams.domains import domain_incremental, in_domain
from cpool.streams.paths import ImagePaths

__all__ = ["image_domains"]


def image_domains(
    path: str | os.PathLike[str],
    *,
    tasks: int | None = None,
    seed: int = 0,
    validation: float | int = 0.1,
    domains: Sequence[str] | None = None,
    test_domains: Sequence[str] = (),
    test_fraction: float | int = 0.2,
    test_seed: int = 0,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    subset_seed: int = 0,
    shuffle: bool = False,
) -> Stream:
    r"""Build a domain-incremental stream of image files, read only when they are needed.

    Two layouts: `path/<domain>/train/<class>/*` with `path/<domain>/test/<class>/*`, or
    `path/<domain>/<class>/*`, of which a share of every class becomes the test. Every domain has
    the same classes, in order of their names; endings are those of `image_folder`. Every file
    that is used is read once for the fingerprint.

    With `test_domains` no image of the other domains is tested. All images of the test domains
    are one common test, as of the sessions 3, 7 and 10 of CORe50. A stream tests every task on
    images of its own, so the common test is dealt to the tasks: each image to exactly one, and
    the shares of every class, as well as those of all classes, differ by one image at most. After
    the last task the mean of the tasks' accuracies, weighted by size, is hence the accuracy on
    the whole common test, and where the shares are equal so is the plain mean. The accuracy on
    one task says nothing of its own domain, so forgetting and transfer are those of the common
    test, too.

    Args:
        path: the folder.
        tasks: how many domains to train on, the first ones in their order; all by default.
        seed: as in `domain_incremental`.
        validation: as in `domain_incremental`.
        domains: the domains to train on, in this order; by default all that are not only tested,
            in order of their names.
        test_domains: domains that are only tested; their names may be none of `domains`.
        test_fraction: share of every class of a domain for the test, if there are neither `test`
            folders nor test domains.
        test_seed: draws this share, or who tests which image of the test domains; apart from
            `seed`, so that every seed has the same test.
        train_per_class: how many training examples of each class and domain to keep; all by
            default.
        test_per_class: how many test examples of each class and domain to keep; all by default.
        subset_seed: draws the kept examples; apart from `seed`, so that every seed sees the same.
        shuffle: let the seed decide the order of domains; otherwise it is the order given.

    Raises:
        DataError: no such folder, domains that differ in their classes or their layout, fewer
            images in the test domains than tasks, or a file that is no image.
        UnknownNameError: no domain of that name.
        ConfigError: an option that does not fit.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in range(24):
    ...         place = pathlib.Path(folder, ["ink", "oil"][k % 2], ["cat", "cow"][k // 12])
    ...         place.mkdir(parents=True, exist_ok=True)
    ...         Image.new("RGB", (4, 4), (k, k, k)).save(place / f"{k}.png")
    ...     stream = image_domains(folder, domains=["oil", "ink"], validation=0)
    >>> [task.name for task in stream], stream.class_names, stream.describe()["test_sizes"]
    (['oil', 'ink'], ('cat', 'cow'), [2, 2])
    """
    root = check_path(path, "path")
    trained, tested = choose_domains(root, domains, test_domains, tasks)
    found, names = list_domains(root, trained, tested)
    sources = []
    for files in found:
        with in_domain(files.name):
            source = _unread(files, names)
            if not tested and not files.test:
                # Each domain apart: its test is the same whichever others are chosen.
                source = divide(source, test_fraction, test_seed)
        sources.append(subset(source, train_per_class, test_per_class, subset_seed))
    trains = [source.train for source in sources[: len(trained)]]
    tests = [source.test for source in sources]
    if tested:
        tests = _shares(tests[len(trained) :], len(trained), test_seed)
    return domain_incremental(
        [(a.x, a.y, b.x, b.y) for a, b in zip(trains, tests, strict=True)],
        seed=seed,
        names=trained,
        class_names=names,
        validation=validation,
        shuffle=shuffle,
        name="image_domains",
        arrangement={"name": "image_domains", "test_domains": tested} if tested else None,
    )


def _unread(files: DomainFiles, names: Sequence[str]) -> Source:
    """Return the files as a source to choose from; what is left out of it is never opened."""
    parts: list[Examples] = []
    for some in (files.train, files.test):
        x, y = labelled(some, names) if some else (ImagePaths([]), np.empty(0, np.int64))
        first = sum(map(len, parts))
        parts.append(Examples(x, y, np.arange(first, first + len(y)), ""))
    return Source(parts[0], parts[1], tuple(names), "image", "")


def _shares(tests: Sequence[Examples], count: int, seed: Any) -> list[Examples]:
    """Deal the images of all test domains to `count` tasks, each class and domain evenly."""
    seed = check_seed(seed, "test_seed")
    y = np.concatenate([test.y for test in tests])
    if len(y) < count:
        raise DataError(
            expected=f"at least one image of the test domains for each of {count} tasks",
            got=str(len(y)),
            remedy="Add images, raise test_per_class, or train on fewer domains.",
        )
    domain = np.repeat(np.arange(len(tests)), [len(test) for test in tests])
    whole = Examples(ImagePaths.concat([t.x for t in tests]), y, np.arange(len(y)), "")
    shares = dealt(y * len(tests) + domain, count, (seed, 12))
    return [whole.take(shares == task) for task in range(count)]
