"""Experiment: what a file asks for, checked and resolved."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cpool.experiment.ranges import Range
from cpool.methods import Method
from cpool.settings import TrainSettings

__all__ = ["Candidate", "Experiment", "MethodEntry", "SearchPlan", "Space"]


@dataclass(frozen=True)
class Candidate:
    """One point of a method's grid.

    Attributes:
        settings: dotted key → value, such as `{"train.lr": 0.01, "length": 5}`.
        method: the method with these values.
        train: the training settings with these values.
    """

    settings: Mapping[str, Any]
    method: Method
    train: TrainSettings


@dataclass(frozen=True)
class Space:
    """What the trials of a row are drawn from, where there is no grid of them.

    Attributes:
        trials: how many.
        make: from a point (dotted key → value) to its candidate; raises a `CpoolError` where the
            method refuses the values.
        corners: the candidates at both ends of each range and at each value of each list, with
            which a method is tried before anything is trained.
    """

    trials: int
    make: Callable[[Mapping[str, Any]], Candidate] = field(compare=False, repr=False)
    corners: tuple[Candidate, ...] = field(compare=False, repr=False)


@dataclass(frozen=True)
class MethodEntry:
    """One row of the experiment.

    Attributes:
        label: unique name of the row.
        method: with its hyper-parameters, before any search.
        train: the method's own settings, changed by `[train]`, changed by `[method.train]`.
        grid: dotted key → values to try, or a range of them; empty without `[method.search]`.
        candidates: the product of the grid, the last key changing fastest; none where they are
            drawn.
        space: how they are drawn.
        chosen: the candidate that the search chose, or that the file names as chosen.
    """

    label: str
    method: Method
    train: TrainSettings
    grid: Mapping[str, tuple[Any, ...] | Range] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    chosen: Candidate | None = None
    space: Space | None = None

    @property
    def trials(self) -> int:
        """How many trials a search of it has."""
        return len(self.candidates) if self.space is None else self.space.trials

    @property
    def samples(self) -> tuple[Candidate, ...]:
        """With what to see whether a search can build the method: the grid, or the corners."""
        return self.candidates if self.space is None else self.space.corners

    @property
    def final(self) -> "MethodEntry":
        """The row as it is run on the test data: with the chosen settings where there are some."""
        if self.chosen is None:
            return self
        return replace(self, method=self.chosen.method, train=self.chosen.train)


@dataclass(frozen=True)
class SearchPlan:
    """What every method's trials have in common; all of them are judged on validation data.

    Attributes:
        budget: most trials a method.
        validation: share of the training data to judge on; None: the stream's own.
        seed: of every trial.
        train_per_class: most training samples of a class in a task; None: all.
        validation_per_class: most samples of a class in a task to judge on; None: all.
        first_tasks: only so many tasks of the stream; None: all.
        sampler: "grid" tries all points; "optuna" draws them, each after those before it.
        trials: how many are drawn for each method; None for grids.
    """

    budget: int
    validation: float | None = None
    seed: int = 0
    train_per_class: int | None = None
    validation_per_class: int | None = None
    first_tasks: int | None = None
    sampler: Literal["grid", "optuna"] = "grid"
    trials: int | None = None

    def options(self) -> dict[str, Any]:
        """Return it as `[search]` holds it; a grid is what there was before there were samplers."""
        values = asdict(self)
        if self.sampler == "grid":
            del values["sampler"], values["trials"]
        return values


@dataclass(frozen=True)
class Experiment:
    """What a file asks for, all of it resolved.

    Attributes:
        name, description: for people; the name is the default output folder.
        seeds: one run a method and seed.
        threads: of torch; None leaves them as they are.
        evaluate: the split that accuracies are measured on.
        backbone: arguments of `load_backbone`.
        stream: name and options; without "seed" each run's own seed orders the classes.
        train: `[train]` as given.
        methods: in the order of the file.
        search: how settings are chosen; None: they are used as they are.
        not_run: methods that belong here and were left out → the reason, for tables.
        precision: "bf16" trains and predicts in mixed precision, "no" in that of the weights.
        trackers: where the numbers of each run go while it learns; see `cpool.trackers`.
        source: the file.
        stand_ins: of a dry run, the folder of made-up data; None: the run is a real one.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    threads: int | None
    evaluate: str
    backbone: Mapping[str, Any]
    stream: Mapping[str, Any]
    train: Mapping[str, Any]
    methods: tuple[MethodEntry, ...]
    search: SearchPlan | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    precision: str = "no"
    trackers: tuple[str, ...] = ()
    source: str = field(default="", compare=False)
    stand_ins: Path | None = field(default=None, compare=False)

    @property
    def dry_run(self) -> bool:
        """Whether it runs on random weights and made-up data, so that its figures mean nothing."""
        return self.stand_ins is not None

    def with_chosen(self, chosen: Mapping[str, Candidate]) -> "Experiment":
        """Return a copy whose rows (by label) have chosen settings."""
        rows = [
            replace(entry, chosen=chosen.get(entry.label, entry.chosen)) for entry in self.methods
        ]
        return replace(self, methods=tuple(rows))

    def settled(self) -> "Experiment":
        """Return the experiment without its search, the chosen settings in the methods."""
        rows = [
            MethodEntry(row.label, row.method, row.train)
            for row in (entry.final for entry in self.methods)
        ]
        return replace(self, name=f"{self.name}-chosen", methods=tuple(rows), search=None)

    def resolved(self) -> dict[str, Any]:
        """Return the content of config.toml: all values, as a file that gives the same again."""
        top = {
            "name": self.name,
            "description": self.description,
            "seeds": list(self.seeds),
            "threads": self.threads,
            "precision": None if self.precision == "no" else self.precision,
            "evaluate": self.evaluate,
            "trackers": list(self.trackers) or None,
            "dry_run": self.dry_run or None,  # no key of an experiment: nobody runs it again
            "backbone": dict(self.backbone),
            "stream": dict(self.stream),
            "train": dict(self.train),
            "search": None if self.search is None else self.search.options(),
            "not_run": dict(self.not_run) or None,
            "method": [_resolved(entry) for entry in self.methods],
        }
        cleaned: dict[str, Any] = _plain(top)
        return cleaned


def _resolved(entry: MethodEntry) -> dict[str, Any]:
    return {
        "name": entry.method.name,
        "label": entry.label,
        **entry.method.hyper_parameters(),
        "train": dict(entry.train.__dict__),
        "search": {k: v.table() if isinstance(v, Range) else v for k, v in entry.grid.items()}
        or None,
        "chosen": None if entry.chosen is None else dict(entry.chosen.settings),
    }


def _plain(value: Any) -> Any:
    """Return `value` as TOML holds it: no None, lists instead of tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
