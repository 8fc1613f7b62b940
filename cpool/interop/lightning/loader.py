"""The data of a task as its training and its borders read them, in the order of `cpool.Learner`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cpool.draws import Draws
from cpool.feed import Feed
from cpool.seeding import derive, split_rows
from cpool.streams import Examples

__all__ = ["TaskData", "TaskLoader"]


class TaskLoader:
    """The batches of a loader, which knows in which epoch and at which batch it is.

    Lightning saves this with its checkpoints, so that a task goes on with the order that it would
    have had.

    Args:
        loader: with a generator that decides the order.
        draws: the random numbers of the task, of which an epoch of texts takes one.
    """

    def __init__(self, loader: DataLoader[Any], draws: Draws) -> None:
        self.loader, self.draws = loader, draws
        # Batches of texts of similar length come from a sampler with a generator of its own.
        source: Any = loader.batch_sampler if loader.generator is None else loader
        self._generator: torch.Generator = source.generator
        self._start: Tensor = self._generator.get_state()  # where the order of this epoch began
        self._read = 0  # batches of this epoch

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch; of one that was resumed those that are left."""
        size = len(self)
        skipped = self._read % size  # an epoch that was read to its end leaves nothing to skip
        self._start = self._generator.get_state()
        # A resumed epoch has taken its random number before it was stopped.
        with torch.random.fork_rng(devices=[]) if skipped else self.draws():
            rows = iter(self.loader)
        for number in range(1, size + 1):
            batch = next(rows)
            if number == size:
                # A sampler draws when it ends, too; Lightning stops after the last batch.
                next(rows, None)
            if number > skipped:
                self._read = number
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where it is."""
        if self._read == len(self):
            return {"order": self._generator.get_state(), "read": 0}
        return {"order": self._start, "read": self._read}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._generator.set_state(state["order"].cpu())
        self._start, self._read = state["order"].cpu(), state["read"]


class TaskData:
    """A task's training data; what the model judges itself on is kept from the optimiser.

    Args:
        feed: of the model.
        examples: all training data of the task.
        seed: of all orders.
        task: number of the task.
    """

    def __init__(self, feed: Feed, examples: Examples, seed: int, task: int) -> None:
        self.feed, self.examples, self.seed, self.task = feed, examples, seed, task

    def parts(self) -> tuple[Examples, Examples | None]:
        """Return what to train on, and what the model judges the result on, if it wants to."""
        share = self.feed.model.held_out  # known for sure when the task has begun
        if not share:
            return self.examples, None
        fit, held = split_rows(len(self.examples), share, self.seed, self.task)
        return self.examples.take(fit), self.examples.take(held)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches that keys and heads start from; made when they are read."""
        seed = derive(self.seed, "start", self.task)
        fit, _ = self.parts()
        yield from self.feed.loader(fit, shuffle=True, seed=seed, fixed=False, whole=True)

    def training(self, draws: Draws) -> TaskLoader:
        """Return the batches to train on; after the task has begun.

        Args:
            draws: the random numbers of the task.
        """
        seed, task = derive(self.seed, "order", self.task), self.task
        fit, _ = self.parts()
        loader = self.feed.loader(fit, task=task, shuffle=True, seed=seed, training=True)
        return TaskLoader(loader, draws)

    def finish(self) -> Iterable[Mapping[str, Tensor]]:
        """Let the model judge itself, and return the batches that it ends the task on."""
        model, (fit, held) = self.feed.model, self.parts()
        if held is not None:
            seen, unseen = (self.feed.loader(e, fixed=False, whole=True) for e in (fit, held))
            model.judge(seen, unseen)
        if not model.needs_end:
            return ()
        seed = derive(self.seed, "end", self.task)
        return self.feed.loader(self.examples, task=self.task, shuffle=True, seed=seed, whole=True)
