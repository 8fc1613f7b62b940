"""Tuned: a specialised model in a folder, that predicts or completes, and takes new tasks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cpool.backbones import Truncations, load_backbone
from cpool.backbones.completions import end_of
from cpool.data import as_examples
from cpool.errors import ConfigError, DataError
from cpool.learner import Learner
from cpool.streams import Examples
from cpool.tuning.completions import AddedCompletions, add_completions
from cpool.tuning.labels import Added, add_labels
from cpool.tuning.rows import check_kind, origin, read_pairs, read_task
from cpool.tuning.scores import said
from cpool.tuning.store import MODEL, Record, TaskRecord, read_held, read_record, write_held

__all__ = ["Tuned"]

WORDS = 20  # new tokens at most, where completions do not say how long they are


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
        return cls(learner, folder, record.upto(len(learner.model.tasks)))

    @property
    def labels(self) -> list[str]:
        """The names of all classes, in the order of the columns of `predict_proba`."""
        return [self.record.labels[c] for c in self.learner.classes]

    def predict(self, texts: Sequence[str], task: str | None = None) -> list[str]:
        """Return the label of each text.

        Args:
            texts: any number of them.
            task: the task they are of, if it is known: then only its labels compete.

        Raises:
            ConfigError: a model of completions, which has no labels.
        """
        self._need_labels()
        answer = self.learner.predictor.predict(as_examples(list(texts)), self._number(task))
        return [self.record.labels[c] for c in answer.labels]

    def predict_proba(self, texts: Sequence[str]) -> Float[np.ndarray, "n C"]:
        """Return the probability of each label, columns as in `labels`."""
        self._need_labels()
        return self.learner.predict_proba(list(texts))

    def generate(self, texts: Sequence[str], task: str | None = None, **options: Any) -> list[str]:
        """Return the words that the language model adds to each text under its prompt.

        Completions are greedy, end at the token with which they were learned, and have as many
        tokens at most as the longest one learned, unless the options say otherwise.

        Args:
            texts: any number of them; cut where they leave no room for new words.
            task: the task they are of, if it is known.
            **options: of transformers' `generate`, such as max_new_tokens=20.
        """
        model, number = self.learner.model, self._number(task)
        usual: dict[str, Any] = {"max_new_tokens": WORDS}
        if self.record.kind == "completions":
            tasks = self.record.tasks if number is None else [self.record.tasks[number]]
            longest = max((task.completions or {}).get("longest", WORDS) for task in tasks)
            end = end_of(model.backbone.processor)
            usual = {"max_new_tokens": longest, "do_sample": False, "eos_token_id": end}
        if {"max_length", "generation_config"} & set(options):
            del usual["max_new_tokens"]  # it would win over them
        with Truncations().once():
            return said(model, texts, number, **{**usual, **options})

    def _need_labels(self) -> None:
        if self.record.kind != "labels":
            raise ConfigError(
                expected="a model that was tuned on rows of text,label",
                got=f"{self.folder}, tuned on rows of prompt,completion",
                remedy="Ask it for words: `cpool generate`, or Tuned.generate.",
            )

    def _number(self, task: str | None) -> int | None:
        names = [one.name for one in self.record.tasks]
        if task is None or task in names:
            return None if task is None else names.index(task)
        raise DataError(
            expected=f"one of the tasks {', '.join(names)}", got=repr(task), remedy="Name one."
        )

    def add(self, data: Any, name: str, *, validation: float = 0.2) -> Added | AddedCompletions:
        """Learn a further task, and say whether the older ones moved.

        Where that fails, amid training too, this is again what its folder holds.

        Args:
            data: rows as for `tune`, of the kind that this model was tuned on.
            name: of the task, new.
            validation: share of the rows that is held out, of each label.

        Raises:
            DataError: a name that is taken, data of a wrong kind, or labels of the same words.
        """
        names, record = [task.name for task in self.record.tasks], self.record
        if name in names:
            raise DataError(
                expected="a new name for a task", got=repr(name), remedy=f"Taken: {names}."
            )
        check_kind(data, record.kind)
        older, names = read_held(self.folder, len(names), record.kind), [*names, name]
        added: Added | AddedCompletions
        found, labels = None, record.labels
        if record.kind == "completions":
            fit, held = read_pairs(data, validation, len(older))
        else:
            parts = read_task(data, validation)
        with self._restored(), Truncations().once():
            if record.kind == "completions":
                added, found = add_completions(self.learner, names, older, fit, held)
                classes = [len(older)]
            else:
                added, (fit, held), labels = add_labels(self.learner, labels, names, older, parts)
                classes = [labels.index(label) for label in parts[2]]
            task = TaskRecord(name, origin(data), classes, len(fit), len(held), found)
            self.record = replace(record, labels=labels, tasks=[*record.tasks, task])
            self.save([*older, held])
        return added

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Take learner and record as they were, from the folder, if what is done inside fails."""
        learner, record = self.learner, self.record
        try:
            yield
        except BaseException:
            self.record = record
            self.learner = Learner.load(
                self.folder / MODEL,
                learner.model.backbone,
                device=learner.device,
                accelerator=learner.accelerator,
                progress=learner.progress,
            )
            raise

    def save(self, held: Sequence[Examples]) -> None:
        """Write the model last: with an older one rows and record read as they were."""
        write_held(self.folder, held)
        self.record.write(self.folder)
        self.learner.save(self.folder / MODEL)
