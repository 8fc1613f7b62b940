"""The image files of domain folders: which domains, with which classes, in which layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cpool.errors import ConfigError, DataError, unknown
from cpool.streams._checks import check_whole
from cpool.streams._folders import files_of_classes, folders_in, is_split
from cpool.streams._labels import sorted_names

__all__ = ["DomainFiles", "choose_domains", "list_domains"]

Files = Mapping[str, Sequence[Path]]


class DomainFiles(NamedTuple):
    """The files of a domain by class.

    Attributes:
        name: of its folder.
        train: for training; empty in a domain that is only tested.
        test: for the test; empty where they are still to be drawn or come from other domains.
    """

    name: str
    train: Files
    test: Files


def choose_domains(
    root: Path, domains: Any, test_domains: Any, tasks: Any
) -> tuple[list[str], list[str]]:
    """Return the domains to train on and those that are only tested, by name.

    Raises:
        DataError: no domain folders.
        UnknownNameError: no folder of that name.
        ConfigError: a domain named twice, none to train on, or more tasks than domains.
    """
    there = sorted_names([folder.name for folder in folders_in(root)])
    if not there or (domains is None and set(there) <= {"train", "test"}):
        none = f"no folder{'s in' * root.is_dir()} {root}"
        raise DataError(
            expected="a folder of domain folders",
            got=f"only {' and '.join(there)} in {root}" if there else none,
            remedy="Lay the images out as root/<domain>/<class>/*.png or "
            "root/<domain>/train/<class>/*.png; image_folder reads root/train/<class>/*.png.",
        )
    tested = _known(test_domains, "test_domains", there)
    trained = [name for name in there if name not in tested]
    if domains is not None:
        trained = _known(domains, "domains", there)
    both = sorted(set(trained) & set(tested))
    if both or not trained:
        raise ConfigError(
            expected="domains to train on, apart from those that are only tested",
            got=f"{both[0]!r} in both" if both else "none",
            remedy="Name every domain in one of domains= and test_domains=.",
        )
    if tasks is not None and check_whole(tasks, "tasks") > len(trained):
        raise ConfigError(
            expected=f"tasks from 1 to {len(trained)}, the number of domains to train on",
            got=str(tasks),
            remedy="Leave it out for all of them.",
        )
    return trained[:tasks], tested


def _known(given: Any, what: str, there: Sequence[str]) -> list[str]:
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or not all(isinstance(name, str) for name in given):
        raise ConfigError(
            expected=f"{what} as a list of names of folders",
            got=repr(given),
            remedy=f"The folders are {', '.join(there[:10])}.",
        )
    for place, name in enumerate(given):
        if name not in there:
            raise unknown("domain", name, there)
        if name in given[:place]:
            got, remedy = f"{name!r} twice", "Remove one of them."
            raise ConfigError(expected=f"{what} without repetition", got=got, remedy=remedy)
    return list(given)


def list_domains(
    root: Path, trained: Sequence[str], tested: Sequence[str]
) -> tuple[list[DomainFiles], list[str]]:
    """Return the files of the domains, those that are only tested last, and the class names.

    Raises:
        DataError: domains of several layouts or with several sets of classes.
    """
    found = [DomainFiles(name, _whole(root / name), {}) for name in trained] if tested else []
    found += [DomainFiles(name, {}, _whole(root / name)) for name in tested]
    if not tested:
        split = _one_layout(root, trained)
        for name in trained:
            train = files_of_classes(root / name / "train" if split else root / name)
            test = files_of_classes(root / name / "test") if split else {}
            found.append(DomainFiles(name, train, test))
    names = sorted_names(list(found[0].train))
    for domain in found:
        _check_classes(domain, names, found[0].name)
    return found, names


def _whole(folder: Path) -> Files:
    """Return all files of a domain, of its test folder too: the test is of other domains."""
    if not is_split(folder):
        return files_of_classes(folder)
    train, test = (files_of_classes(folder / part) for part in ("train", "test"))
    return {name: [*train.get(name, ()), *test.get(name, ())] for name in {**train, **test}}


def _one_layout(root: Path, names: Sequence[str]) -> bool:
    split = [name for name in names if is_split(root / name)]
    if split and len(split) < len(names):
        plain = next(name for name in names if name not in split)
        raise DataError(
            expected="train and test folders in every domain or in none",
            got=f"both in {split[0]!r} and neither in {plain!r}",
            remedy="Divide the images of every domain, or of none: then a share is drawn.",
        )
    return bool(split)


def _check_classes(domain: DomainFiles, names: Sequence[str], first: str) -> None:
    # A test folder may lack a class, as a test set of few images does.
    have = {name for name, files in (domain.train or domain.test).items() if files}
    tested = {name for name, files in domain.test.items() if files}
    missing = [name for name in names if name not in have]
    extra = sorted_names([name for name in (*have, *tested) if name not in names])
    said = [
        f"{word} {_shown(some)}" for word, some in (("none of", missing), ("also", extra)) if some
    ]
    if said:
        raise DataError(
            expected=f"images of the {len(names)} classes of {first!r} in every domain",
            got=f"{' and '.join(said)} in {domain.name!r}",
            remedy="Add images of these classes, or leave out the classes or the domain.",
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)
