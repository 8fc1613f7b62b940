"""Made-up image folders in the form of those that an experiment names: domains, classes, counts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpool.experiment.stand_in_data import TEST, TRAIN, filled, write_images

__all__ = ["A_TASK", "assumed", "image_stand_in", "listed", "rows_of", "strings"]

A_TASK = 4  # classes, where nothing says how many there are
# How many classes the folders of the papers have, where they are not there to be counted.
_FOLDERS = {"cifar100": 100, "core50": 50, "domainnet": 345, "imagenet-r": 200}
_MANY = 30  # classes, from which on two rows of each are enough
_TASKS = 5  # of `image_folder` by default; of `image_domains` a guess


def image_stand_in(options: Mapping[str, Any], place: Path, few: bool) -> Path:
    """Write the folder that `path` stands for, once, and return it.

    Args:
        options: of the stream, with its name and path; or of an arrangement of a folder.
        place: where to.
        few: so few rows of a class as a stream needs that takes them all.
    """
    path = Path(options["path"])
    if place.exists():
        return place
    if options.get("name") == "image_domains":
        domains = _domains(options, path)
        classes = _class_folders(path / domains[0]) or filled([], _FOLDERS.get(path.name, A_TASK))
        train, test = rows_of(len(classes), few)
        # Every domain is tested after each of them, so not all of many classes have a test image;
        # where the test is of other domains, what is in a domain is of one kind anyway.
        tested = [] if options.get("test_domains") else classes[:_MANY]
        for number, domain in enumerate(domains):
            write_images(place / domain, tested, train, test, (number, 1))
            write_images(place / domain, classes[len(tested) :], train, 0, (number, 2))
    else:
        classes = _class_folders(path) or listed(options) or filled([], _guess(options, path))
        write_images(place, classes, *rows_of(len(classes), few))
    return place


def assumed(name: str, options: Mapping[str, Any]) -> str:
    """Return what of a folder that is not there is assumed, as the rest of a sentence.

    >>> assumed("image_folder", {"path": "data/own"})
    'its classes are assumed to be 4 a task'
    """
    path = Path(options["path"])
    domains = name == "image_domains"
    many = str(_FOLDERS.get(path.name, A_TASK if domains else f"{A_TASK} a task"))
    unnamed = domains and options.get("domains") is None
    also = f", and its domains {len(_domains(options, path))}" if unnamed else ""
    return f"its classes are assumed to be {many}{also}"


def rows_of(classes: int, few: bool) -> tuple[int, int]:
    """Return how many rows a class has for training and for the test."""
    if not few:
        return TRAIN, TEST
    return (2, 1) if classes >= _MANY else (5, 1)


def listed(options: Mapping[str, Any]) -> list[str]:
    """Return the names of classes that the options of a stream hold, in order."""
    tasks, order = options.get("tasks"), options.get("class_order")
    groups = [*(tasks if isinstance(tasks, list | tuple) else ()), order or ()]
    return list(dict.fromkeys(name for group in groups for name in strings(group)))


def strings(value: Any) -> Iterator[str]:
    """Yield the texts in a nested value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


def _guess(options: Mapping[str, Any], path: Path) -> int:
    return _FOLDERS.get(path.name, A_TASK * _count(options))


def _count(options: Mapping[str, Any]) -> int:
    tasks = options.get("tasks")
    return tasks if isinstance(tasks, int) else _TASKS


def _domains(options: Mapping[str, Any], path: Path) -> list[str]:
    """Return the domains that are there, so that a wrong name is found; else those named."""
    there = _folders(path)
    if there:
        return there
    named = options.get("domains") or [f"domain {k}" for k in range(_count(options))]
    return [*named, *options.get("test_domains", ())]


def _class_folders(path: Path) -> list[str]:
    return _folders(path / "train" if (path / "train").is_dir() else path)


def _folders(path: Path) -> list[str]:
    there = path.iterdir() if path.is_dir() else ()
    return sorted(p.name for p in there if p.is_dir() and not p.name.startswith("."))
