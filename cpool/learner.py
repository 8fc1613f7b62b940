"""Learner: trains a prompted model over a stream of tasks, and measures what it forgets."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from cpool._io import sha256_of_tensors
from cpool.backbones import Truncations
from cpool.cache import QueryCache
from cpool.checkpoint import (
    MANIFEST,
    load_state,
    read_manifest,
    save_state,
)
from cpool.data import PreparedCache, as_examples
from cpool.demands import check_answerable, check_same, check_told, check_trainable
from cpool.device import make_accelerator
from cpool.errors import CheckpointError, DataError, StateError
from cpool.exact import forget
from cpool.feed import Feed
from cpool.meter import TrainedCount
from cpool.metrics import AccuracyMatrix
from cpool.model import PromptedModel
from cpool.optimise import optimise
from cpool.predictor import Prediction, Predictor
from cpool.processes import Processes
from cpool.progress import Progress
from cpool.resuming import check_settings, method_of
from cpool.run_log import row_values, usage_values
from cpool.seeding import derive, seeded, split_rows
from cpool.settings import TrainSettings
from cpool.streams import Examples, Stream, Task
from cpool.trackers import Trackers

__all__ = ["Learner", "Prediction"]


class Learner:
    """Train, predict, evaluate, save and resume a prompted model.

    The same seed gives the same accuracy matrix on the same machine with the same number of
    threads and the same versions; a resumed run gives the same as one that was not stopped,
    since every task is seeded by (seed, task) and starts with a new optimiser.

    Args:
        model: from `method.build(backbone)`.
        train: how to train; the method's own settings by default.
        seed: of everything random in training.
        cache: query features; share one between learners on the same stream.
        prepared: prepared images; likewise.
        accelerator: an `accelerate.Accelerator`; made from `device` and `precision` when None.
        device: "cpu", "cuda", …; what accelerate finds by default.
        precision: "no" or "bf16" mixed precision.
        quiet: show no progress; without a terminal there is none anyway.
        first: the number of its first task in the whole stream, for a learner of a part of it: a
            task draws the same random numbers wherever it is learned, so that models of parts
            merge into that of the whole (`cpool.exact.merge`).
        trackers: where numbers go while it learns: names ("tensorboard", "wandb", "mlflow"), or
            `cpool.trackers.Trackers`. `run` closes them at its end; after `fit_task` alone, call
            `learner.trackers.close()`.
        tracker_folder: of the files of trackers that are given by name.
        **changes: single training settings, such as `lr=0.01`.

    Example:
        >>> import cpool
        >>> stream = cpool.load_stream("split_digits", tasks=5)
        >>> model = cpool.NCM().build(cpool.load_backbone("embedded"))
        >>> learner = cpool.Learner(model, seed=0)
        >>> matrix = learner.run(stream)
        >>> matrix.summary()["average_accuracy"] > 0.8
        True
    """

    def __init__(
        self,
        model: PromptedModel,
        train: TrainSettings | None = None,
        *,
        seed: int = 0,
        cache: QueryCache | None = None,
        prepared: PreparedCache | None = None,
        accelerator: Any = None,
        device: str | torch.device | None = None,
        precision: str = "no",
        quiet: bool = False,
        progress: Progress | None = None,
        first: int = 0,
        trackers: Trackers | Sequence[str] = (),
        tracker_folder: Path | str = "tracking",
        **changes: Any,
    ) -> None:
        if not isinstance(trackers, Trackers):
            trackers = Trackers(trackers, tracker_folder)
        base = train or (model.method.settings if model.method else TrainSettings())
        self.train = base.but(**changes)
        self.model, self.seed = model, seed
        model.compete(self.train)
        self.accelerator = accelerator or make_accelerator(device, precision)
        # accelerate picks one device a process; a device that was named is used as it is.
        self.device = torch.device(device or self.accelerator.device)
        self.feed = Feed(model, self.train.batch_size, cache, prepared)
        self.predictor = Predictor(self.feed, self.accelerator.autocast)
        self.processes = model.passes.processes = Processes(self.accelerator)
        self.progress = progress or Progress(quiet or not self.processes.writes)
        self.trackers = trackers if self.processes.writes else Trackers()
        self.matrix: AccuracyMatrix | None = None
        # A model may come with tasks: merged, or after one was forgotten.
        self.done: list[str] = [f"task {i}" for i in range(len(model.tasks))]
        # Of each learned task, and of the next one, in the whole stream.
        self.numbers = [first + i for i in range(len(model.tasks))]
        self.next_number = first + len(model.tasks)
        self.train_seconds = 0.0
        self.predict_seconds: float | None = None
        self.usage: dict[str, list[list[int]]] = {}
        self.losses: list[list[float]] = []
        self.trained = TrainedCount(model)
        self.stream: dict[str, Any] | None = None
        model.to(self.device)

    @property
    def classes(self) -> list[int]:
        """The classes seen so far, in the order of the columns of probabilities."""
        return self.model.classes

    # Learning

    def fit_task(self, data: Task | Examples | tuple[Any, Any], name: str | None = None) -> None:
        """Learn the next task.

        Args:
            data: a task of a stream, examples, or a pair (x, y) of inputs and labels.
            name: of the task, when `data` has none.

        Raises:
            DataError: no data, or data of a wrong kind.
            StateError: the task was learned before.
        """
        examples, name = self._training_data(data, name)
        index, number = len(self.done), self.next_number
        self._track()
        started = time.perf_counter()
        with seeded(self.seed, "task", number), Truncations().once():
            fit, held = self._begin(data, examples, name)
            trains = next(self.model.parameters(), None) is not None
            if trains:
                self.losses.append(self._optimise(fit, index, name))
            if held is not None:
                seen, unseen = (self.feed.loader(e, fixed=False, whole=True) for e in (fit, held))
                self.model.judge(seen, unseen)
            last = derive(self.seed, "end", number)
            self.model.end_task(
                self.feed.loader(examples, task=index, shuffle=True, seed=last, whole=True)
                if self.model.needs_end
                else ()
            )
        self.done.append(name)
        self.numbers.append(number)
        self.next_number = number + 1
        self.feed.refresh()
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        self.trackers.log("seconds", {"train": seconds}, at=len(self.done))

    def loader_of(
        self, data: Task | Examples | tuple[Any, Any], name: str | None = None
    ) -> DataLoader[Any]:
        """Begin the next task as `fit_task` does, and return its training batches.

        For loops of one's own around single steps (`cpool.optimise.train_step`); `fit_task` does
        all of it. The task counts as interrupted until a checkpoint from before it is loaded.

        Raises:
            DataError, StateError: as `fit_task`.
        """
        examples, name = self._training_data(data, name)
        with seeded(self.seed, "task", self.next_number), Truncations().once():
            fit, _ = self._begin(data, examples, name)
        return self._batches(fit)

    def _begin(self, data: Any, examples: Examples, name: str) -> tuple[Examples, Examples | None]:
        """Begin the next task; return what to train on, and what to judge on."""
        classes = sorted(set(examples.y.tolist()))
        if isinstance(data, Task):
            classes = sorted(data.classes)
        index = len(self.done)
        if len(self.model.tasks) != index:
            raise StateError(
                expected=f"a model that has finished {index} tasks",
                got=f"{len(self.model.tasks)} begun: the last one was interrupted",
                remedy="Load the checkpoint from before it; half a task cannot be gone on with.",
            )
        check_trainable(self.model, self.train, classes, name, index)
        self.model.begin_task(classes, batches=_Later(self, examples))
        self.model.to(self.device)
        if self.model.needs_raw:
            self.model.study(examples.x, examples.y)
        trains = next(self.model.parameters(), None) is not None
        if not trains and not (self.model.head.fits or self.model.head.ready):
            raise StateError(
                expected="something that trains in this task",
                got=f"nothing in {name!r}: all of it was frozen by earlier tasks",
                remedy="Set freeze_old=False where the same classes come again.",
            )
        return self._split(examples)

    def _batches(self, examples: Examples) -> DataLoader[Any]:
        index = len(self.done)
        seed = derive(self.seed, "order", self.next_number)
        return self.feed.loader(examples, task=index, shuffle=True, seed=seed, training=True)

    def _training_data(
        self, data: Task | Examples | tuple[Any, Any], name: str | None
    ) -> tuple[Examples, str]:
        number = self.next_number
        if isinstance(data, Task):
            examples, name = data.train, name or data.name
            if data.index != number:
                raise StateError(
                    expected=f"task {number}, the next one to learn",
                    got=f"task {data.index} ({data.name})"
                    + (", which was learned before" if data.index in self.numbers else ""),
                    remedy="Tasks are learned once and in order; load a checkpoint to go back.",
                )
        else:
            examples, name = as_examples(data), name or f"task {number}"
        if self.processes.count > 1:  # first: a process that ends alone lets the others wait
            self.processes.check_same(f"training data of {name!r}", examples.digest(labels=True))
            self.processes.check_same("seed and training settings", f"{self.seed} {self.train}")
            if not self.done:
                drawn = sha256_of_tensors(self.model.state_dict())
                self.processes.check_same("new model, built within one seed,", drawn)
        if not len(examples):
            raise DataError(
                expected="at least one training sample", got="none", remedy="Pass some data."
            )
        return examples, name

    def _optimise(self, examples: Examples, index: int, name: str) -> list[float]:
        loader = self._batches(examples)
        label = f"task {index} ({name})"
        self.trained.add(self.model)
        before = sum(map(len, self.losses))

        def report(epoch: int, means: dict[str, float]) -> None:
            self.trackers.log("train", {**means, "task": index}, at=before + epoch)

        return optimise(
            self.model,
            loader,
            self.train,
            self.accelerator,
            index,
            self.progress,
            label,
            report if self.trackers.is_open else None,
        )

    def _split(self, examples: Examples) -> tuple[Examples, Examples | None]:
        """Return what to train on, and what the model judges the result on, if it wants to."""
        share = self.model.held_out
        if not share:
            return examples, None
        fit, held = split_rows(len(examples), share, self.seed, self.next_number)
        return examples.take(fit), examples.take(held)

    # Predicting

    def predict(self, x: Any, task: int | str | None = None) -> Int[np.ndarray, " n"]:
        """Return the class of each input.

        Args:
            x: raw inputs.
            task: the task that all of them are of, by its name or its place among those learned,
                where the protocol tells it: only its classes compete then.

        Raises:
            StateError: before the first task was learned, or a task that was not.
            ConfigError: no task, with a method that must be told it.
        """
        return self.explain(x, task).labels

    def predict_proba(self, x: Any, task: int | str | None = None) -> Float[np.ndarray, "n C"]:
        """Return the probability of each class seen, columns as in `classes`; see `predict`."""
        return self.explain(x, task).probabilities

    def explain(self, x: Any, task: int | str | None = None) -> Prediction:
        """Return classes, probabilities and the slots that each input got; see `predict`."""
        examples = as_examples(x)
        self._need_task()
        check_answerable(self.model, task is not None)
        return self.predictor.predict(examples, None if task is None else self._place(task))

    def _place(self, task: int | str) -> int:
        """Return the place of a task among those learned, by its name or as it is.

        Raises:
            StateError: no task is called so.
        """
        if not isinstance(task, str):
            return task
        if task in self.done:
            return self.done.index(task)
        raise StateError(
            expected=f"a task that was learned: {', '.join(self.done)}",
            got=repr(task),
            remedy="Name one of them.",
        )

    def _need_task(self) -> None:
        if not self.done:
            raise StateError(
                expected="a learner that has learned at least one task",
                got="a new one",
                remedy="Call fit_task, run or load first.",
            )

    def evaluate(
        self,
        tasks: Stream | Sequence[Task] | Task,
        *,
        told: bool | None = None,
        cached: bool = True,
    ) -> list[float]:
        """Return the accuracy on the test data of each task.

        Args:
            tasks: a stream, some of its tasks, or one.
            told: whether the model is told the task (task-incremental streams; the default
                follows the stream's scenario). Joint training has had one task of all classes, so
                that it is told the classes of the task instead.
            cached: use query features computed before.

        Raises:
            ConfigError: a method that must be told the task, and is not.
        """
        told = getattr(tasks, "scenario", "class") == "task" if told is None else told
        self._need_task()
        check_answerable(self.model, told)
        each = [tasks] if isinstance(tasks, Task) else tasks[:]
        some = [task if not told else self._mine(task) for task in each]
        accuracies, self.usage = self.predictor.accuracies(some, told=told, cached=cached)
        return accuracies

    def _mine(self, task: Task) -> Task:
        """Return a task of the stream with the number that it has in this model."""
        joint = self.model.method is not None and self.model.method.joint
        if joint or task.index not in self.numbers:
            return task  # told its classes, or refused by the model as one that it does not know
        return replace(task, index=self.numbers.index(task.index))

    # Forgetting on purpose

    def forget(self, task: int | str) -> None:
        """Become the learner that never saw a task; see `cpool.exact.forget`.

        Kept features and prepared inputs are dropped, and so is the matrix, which was measured
        with the task. Saving to the folder of an older checkpoint removes the files of the task
        there, and the manifest says what was removed when.

        Args:
            task: its name, or its place among the tasks learned.

        Raises:
            StateError, PoolError: no such task, or one that cannot be taken out exactly.
        """
        place = self._place(task)
        self.model = forget(self.model, place)
        self.feed.cache.clear()
        # Prepared inputs may be shared, so that those who go on using them keep theirs.
        self.feed = Feed(self.model, self.train.batch_size, self.feed.cache)
        self.predictor = Predictor(self.feed, self.accelerator.autocast)
        total = self.trained.total
        self.trained = TrainedCount(self.model)
        self.trained.total = total  # it was trained, and cost what it cost
        del self.done[place], self.numbers[place]
        self.matrix, self.stream, self.usage = None, None, {}

    # The whole stream

    def run(
        self, stream: Stream, folder: Path | str | None = None, *, resume: bool = False
    ) -> AccuracyMatrix:
        """Learn every task in turn, evaluate after each, and return the accuracy matrix.

        After task t all tasks up to t are evaluated (all tasks in a domain-incremental stream,
        where the classes are known from the start). The last evaluation is done without features
        and prepared images from before, and timed. Growing happens after evaluating, so it cannot
        change a selection.

        Args:
            stream: the tasks.
            folder: where a checkpoint is written after each task; none by default.
            resume: go on from the checkpoint in `folder`, if there is one; without it a folder
                that holds one is refused, so that nothing is lost.

        Raises:
            ConfigError: a method that must be told the task of a test sample, on a stream that
                does not tell it.
            CheckpointError: a checkpoint in `folder` without `resume`, or of another stream.
        """
        check_told(self.model, stream)
        if folder is not None and not self.done and (Path(folder) / MANIFEST).is_file():
            if not resume:
                raise CheckpointError(
                    expected="a folder without a checkpoint, or resume=True",
                    got=f"{folder}, which holds one",
                    remedy="Pass resume=True to go on with it, or choose another folder.",
                )
            self.resume(folder)
        if self.numbers != list(range(len(self.done))) or self.next_number != len(self.done):
            raise StateError(
                expected="a learner of the whole stream, from its first task",
                got=f"one of tasks {self.numbers} that goes on with {self.next_number}",
                remedy="Call fit_task and evaluate for each task of a part of a stream.",
            )
        if self.matrix is None:
            self.matrix = AccuracyMatrix(len(stream))
        self.stream = check_same(self.stream, stream)
        self.model.name_classes(stream.class_names)
        try:
            with Truncations().once():
                self._run(stream, folder)
        finally:
            self.trackers.close()
        return self.matrix

    def _run(self, stream: Stream, folder: Path | str | None) -> None:
        if self.model.method is not None and self.model.method.joint:
            if not self.done:
                self.fit_task(stream.joint())
                self._evaluate_row(stream, len(stream) - 1, last=True)
                self._save_if(folder)
            return
        first = len(self.done)
        for task in self.progress.track(stream[first:], "tasks"):
            self.fit_task(task)
            self._evaluate_row(stream, task.index, last=task.index == len(stream) - 1)
            self._save_if(folder)

    def _evaluate_row(self, stream: Stream, trained: int, last: bool) -> None:
        assert self.matrix is not None
        seen = stream[:] if stream.scenario == "domain" else stream[: trained + 1]
        started = time.perf_counter()
        row = self.evaluate(seen, told=stream.scenario == "task", cached=not last)
        seconds = time.perf_counter() - started
        if last:
            self.predict_seconds = seconds
        for task, accuracy in zip(seen, row, strict=True):
            self.matrix.update(trained, task.index, accuracy, len(task.test))
        at = len(self.done)
        self.trackers.log("test", row_values(self.matrix, trained), at)
        self.trackers.log("slots", usage_values(self.usage), at)
        self.trackers.log("seconds", {"evaluate": seconds}, at)

    def _track(self) -> None:
        """Begin a run in the trackers, unless one is open."""
        if not self.trackers.names or self.trackers.is_open:
            return
        method = self.model.method
        label = self.trackers.label or ("model" if method is None else method.name)
        settings = {
            "method": None if method is None else method.name,
            **({} if method is None else method.hyper_parameters()),
            "train": dict(self.train.__dict__),
            "seed": self.seed,
            "backbone": self.model.backbone.spec()["name"],
            **({} if self.stream is None else {"stream": self.stream["name"]}),
        }
        self.trackers.open(f"{label}-seed{self.seed}", settings)

    def _save_if(self, folder: Path | str | None) -> None:
        if folder is not None:
            self.save(folder)

    # Files

    def save(self, folder: Path | str, more: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint; only files that are new are written, each atomically.

        Of several processes the first writes, and the others wait for it.

        Args:
            folder: where to.
            more: further entries of the manifest (JSON), of what drives this learner.

        Raises:
            CheckpointError: the folder cannot be written; an older checkpoint in it stays whole.
        """
        extra = {
            "train": {**self.train.__dict__},
            "learner": {
                "seed": self.seed,
                "done": self.done,
                "numbers": self.numbers,
                "next": self.next_number,
                "matrix": None if self.matrix is None else self.matrix.to_json(),
                "train_seconds": self.train_seconds,
                "predict_seconds": self.predict_seconds,
                "usage": self.usage,
                "losses": self.losses,
                "trained": self.trained.state(self.model),
                "stream": self.stream,
            },
        }
        if self.processes.writes:
            save_state(self.model, folder, {**extra, **(more or {})})
        self.processes.wait()
        return Path(folder) / MANIFEST

    def resume(self, folder: Path | str) -> "Learner":
        """Fill this new learner from a checkpoint and go on from there.

        Raises:
            CheckpointError: the checkpoint is damaged, or was made with other settings.
        """
        if self.done:
            raise StateError(
                expected="a new learner to resume into",
                got=f"one that has learned {len(self.done)} tasks",
                remedy="Build the model again, make a new Learner, and resume that.",
            )
        manifest = read_manifest(folder)
        state = manifest["learner"]
        check_settings(manifest, self.model.method, self.train, self.seed)
        load_state(self.model, folder)
        self.model.to(self.device)
        self.done, self.usage = list(state["done"]), state["usage"]
        # Checkpoints from before there were parts of streams have neither.
        self.numbers = list(state.get("numbers", range(len(self.done))))
        self.next_number = state.get("next", len(self.done))
        self.losses, self.stream = state["losses"], state["stream"]
        self.trained = TrainedCount(self.model, state.get("trained"))
        self.train_seconds, self.predict_seconds = state["train_seconds"], state["predict_seconds"]
        self.matrix = state["matrix"] and AccuracyMatrix.from_json(state["matrix"])
        return self

    @classmethod
    def load(
        cls, folder: Path | str, backbone: Any, model: PromptedModel | None = None, **options: Any
    ) -> "Learner":
        """Make a learner from a checkpoint; no training data is needed.

        Args:
            folder: what `save` wrote.
            backbone: the same frozen model that the checkpoint was made with.
            model: a new model of the same build; only needed for a method of one's own.
            **options: as for the constructor.
        """
        manifest = read_manifest(folder)
        model = model or method_of(manifest).build(backbone)
        train = TrainSettings(**manifest["train"])
        learner = cls(model, train, seed=manifest["learner"]["seed"], **options)
        return learner.resume(folder)

    def queries(self, examples: Examples, *, cached: bool = True) -> Float[Tensor, "n Q"]:
        """Return the query features of all examples; see `Feed.queries`."""
        self.processes.check_same("inputs", examples.digest())
        return self.feed.queries(examples, cached=cached)


class _Later:
    """A task's training data at its start, made when it is read; without what is held out."""

    def __init__(self, learner: Learner, examples: Examples) -> None:
        self.learner, self.examples = learner, examples

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        learner = self.learner
        part, _ = learner._split(self.examples)
        seed = derive(learner.seed, "start", learner.next_number)
        yield from learner.feed.loader(part, shuffle=True, seed=seed, fixed=False, whole=True)
