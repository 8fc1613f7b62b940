"""TaskFreeLearner: chunk after chunk in one pass, without task labels; drift decides growth."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_bytes

from cpool._io import sha256_of_bytes, write_bytes
from cpool.backbones import Truncations
from cpool.cache import QueryCache
from cpool.checkpoint import MANIFEST, read_file, read_manifest
from cpool.data import PreparedCache, as_examples
from cpool.drift import DriftDetector
from cpool.errors import CheckpointError, ConfigError, DataError, StateError
from cpool.learner import Learner
from cpool.model import PromptedModel
from cpool.optimise import optimise
from cpool.seeding import derive, seeded
from cpool.streams import Examples

__all__ = ["TaskFreeLearner"]

_OPTIONS = ("window", "reference", "false_alarms", "slack", "settle", "seed")


class TaskFreeLearner:
    """Trains a learner's model on a stream that tells no tasks.

    Each chunk is seen once. The detector looks at its query features: at an alarm, and at the
    start, a new task begins, so that what is old is frozen and slots grow; otherwise the current
    task goes on training, and classes that turn up are added to it. A closed-form head is fitted
    on each chunk; prompts that such a head is fitted on train in the first chunk of a task only,
    since the features of later chunks have to be of the same kind.

    A new optimiser starts with every chunk. `TrainSettings.epochs` are epochs of a chunk: 1 sees
    each example in one step. Methods that need all data of a task at its start or end are
    refused, for nobody keeps it.

    Args:
        learner: a new one.
        detector: decides; it needs `reference` rows before it can raise an alarm.

    Attributes:
        chunks: how many chunks were observed.
        growths: the numbers of those at which a task began, the first chunk among them.

    Raises:
        StateError: a learner that has learned something.
        ConfigError: a method that needs the data of whole tasks, or to be told the task.

    >>> import numpy, cpool
    >>> model = cpool.NCM().build(cpool.load_backbone("embedded"))
    >>> free = TaskFreeLearner(cpool.Learner(model), DriftDetector())
    >>> images = numpy.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=numpy.uint8)
    >>> free.observe(images, [0, 0, 0, 1, 1, 1]), free.observe(images, [2, 2, 2, 1, 1, 1])
    (True, False)
    >>> free.learner.classes, free.growths
    ([0, 1, 2], [0])
    """

    def __init__(self, learner: Learner, detector: DriftDetector) -> None:
        if learner.done or learner.model.tasks:
            raise StateError(
                expected="a new learner",
                got=f"one that has begun {len(learner.model.tasks)} tasks",
                remedy="Build the model again; resume a task-free checkpoint with `resume`.",
            )
        _check(learner.model)
        self.learner, self.detector = learner, detector
        self.chunks = 0
        self.growths: list[int] = []
        self.finished = False

    def observe(self, x: Any, y: Any) -> bool:
        """Learn from the next chunk; return whether a new task began with it.

        Args:
            x: inputs, in order of arrival.
            y: their classes.

        Raises:
            DataError: no data, or data of a wrong kind.
            StateError: after `finish`.
        """
        if self.finished:
            raise StateError(
                expected="chunks before the end of the stream",
                got="one after finish()",
                remedy="Call finish once, after the last chunk.",
            )
        examples = as_examples((x, y))
        if not len(examples):
            raise DataError(expected="at least one sample", got="none", remedy="Pass some data.")
        learner, started = self.learner, time.perf_counter()
        seed = seeded(learner.seed, "chunk", self.chunks)
        with seed, _forgetting(learner), Truncations().once():
            alarm = self.detector.update(learner.queries(examples))
            grows = alarm or not self.growths
            self._announce(examples, grows)
            self._learn(examples, grows)
        learner.feed.passes.clear()  # made with prompts, or a choice of them, that may be other now
        learner.train_seconds += time.perf_counter() - started
        self.chunks += 1
        return grows

    def finish(self) -> None:
        """Close the last task: freeze what grew for it."""
        if self.growths and not self.finished:
            self._close()
        self.finished = True

    def _announce(self, examples: Examples, grows: bool) -> None:
        """Begin a task with the classes of a chunk, or add them to the current one."""
        learner, classes = self.learner, sorted(set(examples.y.tolist()))
        if not grows:
            learner.model.extend_task(classes)
            return
        if self.growths:
            self._close()
        loader = learner.feed.loader(examples, fixed=False, whole=True)
        learner.model.begin_task(classes, batches=loader if learner.model.needs_start else ())
        learner.model.to(learner.device)
        learner.done.append(f"task {len(self.growths)}, from chunk {self.chunks}")
        learner.numbers.append(learner.next_number)
        learner.next_number += 1
        self.growths.append(self.chunks)

    def _close(self) -> None:
        if not self.learner.model.head.fits:  # else every chunk has been an end
            with seeded(self.learner.seed, "close", self.chunks):
                self.learner.model.end_task()

    def _learn(self, examples: Examples, grows: bool) -> None:
        learner, model, task = self.learner, self.learner.model, len(self.growths) - 1
        trains = next(model.parameters(), None) is not None
        if trains and (grows or not model.head.fits):
            seed = derive(learner.seed, "chunk order", self.chunks)
            loader = learner.feed.loader(
                examples, task=task, shuffle=True, seed=seed, training=True
            )
            label = f"chunk {self.chunks} (task {task})"
            learner.trained.add(model)
            learner.losses.append(
                optimise(
                    model,
                    loader,
                    learner.train,
                    learner.accelerator,
                    task,
                    learner.progress,
                    label,
                )
            )
        if model.head.fits:
            model.end_task(learner.feed.loader(examples, task=task, whole=True))

    # Files

    def save(self, folder: Path | str) -> Path:
        """Write the learner's checkpoint and the detector's state; the manifest names both.

        Raises:
            CheckpointError: the folder cannot be written; an older checkpoint in it stays whole.
        """
        folder = Path(folder)
        old = _entry(read_manifest(folder)) if (folder / MANIFEST).is_file() else None
        data = save_bytes({k: v.contiguous().cpu() for k, v in self.detector.state_dict().items()})
        digest = sha256_of_bytes(data)
        name = f"detector-{digest[:12]}.safetensors"
        write_bytes(folder / name, data)
        entry = {
            "file": {"name": name, "sha256": digest, "bytes": len(data)},
            "options": {key: getattr(self.detector, key) for key in _OPTIONS},
            "layout": self.detector.layout(),
            "chunks": self.chunks,
            "growths": self.growths,
            "finished": self.finished,
        }
        path = self.learner.save(folder, {"task_free": entry})
        if old is not None and old["file"]["name"] != name:
            (folder / Path(old["file"]["name"]).name).unlink(missing_ok=True)
        return path

    def resume(self, folder: Path | str) -> "TaskFreeLearner":
        """Fill this new learner and its detector from a checkpoint, and go on from there.

        Raises:
            CheckpointError: the checkpoint is damaged, was not written by a task-free learner, or
                was made with other settings.
        """
        folder = Path(folder)
        entry = _entry(read_manifest(folder))
        now = {key: getattr(self.detector, key) for key in _OPTIONS}
        if entry is None or entry["options"] != now:
            raise CheckpointError(
                expected=f"a checkpoint of a task-free learner with the detector {now}",
                got="none" if entry is None else f"one with {entry['options']}",
                remedy="Name a folder that TaskFreeLearner.save wrote, and use its settings.",
            )
        state = read_file(folder / Path(entry["file"]["name"]).name, entry["file"])
        self.learner.resume(folder)
        self.detector.restore(entry["layout"])
        self.detector.load_state_dict(state)
        self.chunks, self.growths = entry["chunks"], list(entry["growths"])
        self.finished = entry["finished"]
        return self


@contextlib.contextmanager
def _forgetting(learner: Learner) -> Iterator[None]:
    """Keep features and prepared inputs for one chunk only: a stream may have no end."""
    feed = learner.feed
    kept = feed.cache, feed.prepared
    feed.cache, feed.prepared = QueryCache(), PreparedCache()
    try:
        yield
    finally:
        feed.cache, feed.prepared = kept


def _entry(manifest: dict[str, Any]) -> dict[str, Any] | None:
    entry: dict[str, Any] | None = manifest.get("task_free")
    return entry


def _check(model: PromptedModel) -> None:
    """Refuse a method that cannot learn from chunks."""
    method = model.method
    wanted = []
    if model.prompter is not None and model.prompter.needs_end:
        wanted.append("policies")
    if any(r.needs_start or r.needs_end or r.needs_raw or r.judges for r in model.each_rule()):
        wanted.append("rules")
    told = method is not None and method.needs_task
    if wanted or told or (method is not None and method.joint):
        raise ConfigError(
            expected="a method that learns from chunks, and that nobody tells a task",
            got=f"{method.name if method else 'a model'!r}, "
            + (
                f"whose {' and '.join(wanted)} need all data of a task at its start or end"
                if wanted
                else "which must be told the task at test"
                if told
                else "which sees all tasks at once"
            ),
            remedy='Use "l2p", "coda_prompt", "dualprompt", or a closed-form method such as "ncm".',
        )
