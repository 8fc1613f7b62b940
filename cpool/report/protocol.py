"""What must agree before numbers of several runs may stand in one table, and what differs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Difference", "differences"]

Results = Mapping[str, Any]
_NO_RUN = object()  # where a field is about a seed that a file does not have


@dataclass(frozen=True)
class Difference:
    """A field of the protocol that differs.

    Attributes:
        field: its name, as in results.json where it stands there.
        values: one a file, as texts.
    """

    field: str
    values: tuple[str, ...]

    def sentence(self, names: Sequence[str]) -> str:
        """Say which file has which value.

        >>> Difference("seeds", ("0, 1", "0")).sentence(["a", "b"])
        'seeds: 0, 1 in a; 0 in b'
        """
        return f"{self.field}: " + "; ".join(
            f"{value} in {name}" for name, value in zip(names, self.values, strict=True)
        )


def differences(documents: Sequence[Results]) -> list[Difference]:
    """Return the fields of the protocol that are not the same in all results.

    Compared are the backbone and its query features, the data by their fingerprint, the scenario,
    the options that reduce or arrange the stream, the number of tasks and their classes, the order
    of the classes for every seed that two files share, the sizes of the splits, the split that was
    measured on, the seeds, and the search. A field that one file records and another does not (an
    older version) differs, too: nobody can say that it was the same.

    Args:
        documents: contents of results.json.

    >>> one = {"stream": {"fingerprint": "a"}, "runs": [{"seed": 0}]}
    >>> differences([one, {**one, "runs": [{"seed": 1}]}])
    [Difference(field='seeds', values=('0', '1'))]
    >>> differences([one, {**one, "search": None}])
    [Difference(field='search', values=('not recorded', 'none'))]
    """
    fields = {**_FIELDS, **_orders(documents)}
    found = []
    for name, read in fields.items():
        values = [read(document) for document in documents]
        asked = [value for value in values if value is not _NO_RUN]
        if any(value != asked[0] for value in asked[1:]):
            found.append(Difference(name, tuple(map(_shown, values))))
    return found


def _part(part: str, key: str) -> Callable[[Results], Any]:
    def read(document: Results) -> Any:
        return (document.get(part) or {}).get(key)

    return read


def _total(key: str) -> Callable[[Results], Any]:
    def read(document: Results) -> Any:
        # Sizes of single tasks depend on the order of the classes.
        sizes = _part("stream", key)(document)
        return None if sizes is None else sum(sizes)

    return read


def _classes_a_task(document: Results) -> Any:
    classes = _part("stream", "task_classes")(document)
    return None if classes is None else sorted(map(len, classes))


def _options(document: Results) -> Any:
    options = _part("stream", "options")(document)
    # The share that is held out in a stream is visible in the sizes of its splits.
    return None if options is None else {k: v for k, v in options.items() if k != "validation"}


def _seeds(document: Results) -> Any:
    return sorted({run["seed"] for run in document["runs"] if run.get("seed") is not None})


_PLAN = (
    "budget",
    "validation",
    "seed",
    "train_per_class",
    "validation_per_class",
    "first_tasks",
    "sampler",  # of drawn trials; grids have neither
    "trials_each",
)


def _search(document: Results) -> Any:
    if "search" not in document:
        return None
    search = document["search"]
    return "none" if search is None else {key: search.get(key) for key in _PLAN}


def _evaluated(document: Results) -> Any:
    return document.get("evaluated_on") or "test"


_FIELDS: dict[str, Callable[[Results], Any]] = {
    **{
        f"backbone.{key}": _part("backbone", key)
        for key in ("fingerprint", "pooling", "normalize", "layers", "dtype")
    },
    **{f"stream.{key}": _part("stream", key) for key in ("name", "fingerprint", "scenario")},
    "stream.tasks": _part("stream", "tasks"),
    "stream.options": _options,
    "stream.arrangement": _part("stream", "arrangement"),
    "classes a task": _classes_a_task,
    "training samples": _total("train_sizes"),
    "test samples": _total("test_sizes"),
    "evaluated_on": _evaluated,
    "seeds": _seeds,
    "search": _search,
}


def _orders(documents: Sequence[Results]) -> dict[str, Callable[[Results], Any]]:
    """Return a field a seed: the order of its classes, which makes the tasks."""

    def reader(seed: int) -> Callable[[Results], Any]:
        def read(document: Results) -> Any:
            runs = [run for run in document["runs"] if run.get("seed") == seed]
            orders = (run.get("class_order") for run in runs)
            known = next((order for order in orders if order is not None), None)
            return known if runs else _NO_RUN

        return read

    seeds = sorted({seed for document in documents for seed in _seeds(document)})
    return {f"class order of seed {seed}": reader(seed) for seed in seeds}


def _shown(value: Any) -> str:
    if value is None:
        return "not recorded"
    if value is _NO_RUN:
        return "no run"
    if isinstance(value, list):
        short = ", ".join(map(str, value[:8])) + (", …" if len(value) > 8 else "")
        return short or "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
