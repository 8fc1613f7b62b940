"""Tuned: a specialised model in a folder, that predicts, takes new tasks and generates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cpool.backbones import load_backbone
from cpool.data import as_examples
from cpool.errors import DataError
from cpool.initialisers import from_text
from cpool.language import readable
from cpool.learner import Learner
from cpool.methods import PromptTuning
from cpool.streams import Examples, build_stream, load_stream
from cpool.tuning.store import MODEL, Record, TaskRecord, read_held, read_record, write_held

__all__ = ["Added", "Tuned", "origin", "read_task", "start_text"]

ROWS = 16  # texts that are answered in words together


@dataclass(frozen=True)
class Added:
    """What adding a task did.

    Attributes:
        task: its name.
        accuracy: on the rows held out of it, when nobody tells the task.
        before, after: accuracy of each older task on its held-out rows, by name; nobody tells it.
        told_before, told_after: the same when the task is told.
        changed: held-out answers of older tasks that are others now though the task is told.
    """

    task: str
    accuracy: float
    before: dict[str, float]
    after: dict[str, float]
    told_before: dict[str, float]
    told_after: dict[str, float]
    changed: int


class Tuned:
    """A model that `tune` made, or that was loaded from its folder.

    Args:
        learner: with the tasks learned so far.
        folder: where it is stored.
        record: what it was made from.
    """

    def __init__(self, learner: Learner, folder: Path, record: Record) -> None:
        self.learner, self.folder, self.record = learner, folder, record

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None, quiet: bool = True) -> "Tuned":
        """Load a tuned model.

        Raises:
            CheckpointError: no tuned model in that folder, or a damaged one.
            BackboneError: its backbone is not where it was.
        """
        folder = Path(folder)
        record = read_record(folder)
        backbone = load_backbone(**record.backbone)
        learner = Learner.load(folder / MODEL, backbone, device=device, quiet=quiet)
        return cls(learner, folder, record)

    @property
    def labels(self) -> list[str]:
        """The names of all classes, in the order of the columns of `predict_proba`."""
        return [self.record.labels[c] for c in self.learner.classes]

    def predict(self, texts: Sequence[str], task: str | None = None) -> list[str]:
        """Return the label of each text.

        Args:
            texts: any number of them.
            task: the task they are of, if it is known: then only its labels compete.
        """
        answer = self.learner.predictor.predict(as_examples(list(texts)), self._number(task))
        return [self.record.labels[c] for c in answer.labels]

    def predict_proba(self, texts: Sequence[str]) -> Float[np.ndarray, "n C"]:
        """Return the probability of each label, columns as in `labels`."""
        return self.learner.predict_proba(list(texts))

    def generate(self, texts: Sequence[str], task: str | None = None, **options: Any) -> list[str]:
        """Return the words that the language model adds to each text under its prompt.

        Args:
            texts: any number of them.
            task: the task they are of, if it is known.
            **options: of transformers' `generate`, such as max_new_tokens=20.
        """
        model, number, rows = self.learner.model, self._number(task), list(texts)
        made: list[str] = []
        for start in range(0, len(rows), ROWS):
            ids = model.generate(model.prepare(rows[start : start + ROWS]), number, **options)
            made += model.backbone.processor.batch_decode(ids, skip_special_tokens=True)
        return made

    def _number(self, task: str | None) -> int | None:
        names = [one.name for one in self.record.tasks]
        if task is None or task in names:
            return None if task is None else names.index(task)
        raise DataError(
            expected=f"one of the tasks {', '.join(names)}", got=repr(task), remedy="Name one."
        )

    def add(self, data: Any, name: str, *, validation: float = 0.2) -> Added:
        """Learn a further task, and say whether the older ones moved.

        Args:
            data: rows of text and label: a CSV or JSON Lines file, or a pair (texts, labels).
            name: of the task, new.
            validation: share of each label's rows that is held out.

        Raises:
            DataError: a name that is taken, or data of a wrong kind.
        """
        names = [task.name for task in self.record.tasks]
        if name in names:
            raise DataError(
                expected="a new name for a task", got=repr(name), remedy=f"Taken: {names}."
            )
        train, held, labels = read_task(data, validation)
        numbers = self._numbers(labels)
        train, held = (replace(part, y=numbers[part.y]) for part in (train, held))
        parts = read_held(self.folder, len(names))
        self._start_from(labels)
        before, told_before = self._answers(parts), self._answers(parts, told=True)
        self.learner.fit_task(train, name)
        after, told_after = self._answers(parts), self._answers(parts, told=True)
        own = self._answers([held], first=len(names))
        task = TaskRecord(name, origin(data), numbers.tolist(), len(train), len(held))
        self.record.tasks.append(task)
        self.save([*parts, held])

        def scores(answers: list[np.ndarray]) -> dict[str, float]:
            return {n: _accuracy(a, p) for n, a, p in zip(names, answers, parts, strict=True)}

        pairs = zip(told_before, told_after, strict=True)
        return Added(
            task=name,
            accuracy=_accuracy(own[0], held),
            before=scores(before),
            after=scores(after),
            told_before=scores(told_before),
            told_after=scores(told_after),
            changed=sum(int((one != other).sum()) for one, other in pairs),
        )

    def _start_from(self, labels: Sequence[str]) -> None:
        """Let the prompt of a new task start from a text that lists its own labels."""
        model = self.learner.model
        if (
            isinstance(model.method, PromptTuning)
            and model.method.init == "text"
            and model.prompter
        ):
            branch = next(iter(model.prompter))
            branch.pool.init = from_text(model.backbone, start_text(labels))

    def _numbers(self, labels: Sequence[str]) -> np.ndarray:
        """Return the class of each label of a new task; new labels get new numbers."""
        words = getattr(self.learner.model.head, "words", None)
        for label in labels:
            if label not in self.record.labels:
                self.record.labels.append(label)
                if words is not None:
                    words.more([label])
        return np.array([self.record.labels.index(label) for label in labels])

    def _answers(
        self, parts: Sequence[Examples], *, told: bool = False, first: int = 0
    ) -> list[np.ndarray]:
        predict = self.learner.predictor.predict
        return [
            predict(part, task if told else None).labels for task, part in enumerate(parts, first)
        ]

    def save(self, held: Sequence[Examples]) -> None:
        """Write the model, then the held-out rows, then the record that names them."""
        self.learner.save(self.folder / MODEL)
        write_held(self.folder, held)
        self.record.write(self.folder)


def read_task(data: Any, validation: float) -> tuple[Examples, Examples, tuple[str, ...]]:
    """Return the rows to learn from, those held out, and the names of the labels."""
    options: dict[str, Any] = {"tasks": 1, "validation": 0, "test_fraction": validation}
    if isinstance(data, str | Path):
        stream = load_stream("text_file", path=str(data), **options)
    else:
        stream = build_stream(data, **options)
    if stream.modality != "text":
        raise DataError(
            expected="texts with labels",
            got=f"{stream.modality} data",
            remedy="For images use an experiment file and `cpool run`.",
        )
    return stream[0].train, stream[0].test, stream.class_names


def _accuracy(answers: np.ndarray, part: Examples) -> float:
    return float((answers == part.y).mean())


def start_text(labels: Sequence[str]) -> str:
    """Return the hard prompt from which the prompt of a task starts."""
    return f"Say which label fits the text: {', '.join(map(readable, labels))}."


def origin(data: Any) -> str:
    """Return what to call the place that rows came from."""
    return Path(data).name if isinstance(data, str | Path) else "rows"
