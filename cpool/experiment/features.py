"""What is computed once for all methods: the query features, and the untrained baseline."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpool.backbones import Backbone
from cpool.cache import QueryCache
from cpool.data import make_loader
from cpool.progress import Progress
from cpool.seeding import seeded
from cpool.streams import Examples, Stream

__all__ = ["sample_batch", "untrained_accuracy", "warm"]

BATCH = 128


def warm(backbone: Backbone, stream: Stream, cache: QueryCache, progress: Progress) -> None:
    """Compute the query features of all splits that are not in the cache.

    They are computed in the order of the sample ids, whatever the seed's class order: so the
    batches, and with them the last bits, are the same in a run that was resumed.
    """
    for examples in _by_source(stream):
        _features(backbone, examples, cache, progress)


def _by_source(stream: Stream) -> Iterator[Examples]:
    splits = [s for task in stream for s in (task.train, task.validation, task.test) if len(s)]
    for source in dict.fromkeys(split.source for split in splits):
        joined = Examples.concat([split for split in splits if split.source == source])
        yield joined.take(np.argsort(joined.ids, kind="stable"))


def _features(
    backbone: Backbone, examples: Examples, cache: QueryCache, progress: Progress
) -> Float[Tensor, "n Q"]:
    def compute(positions: np.ndarray) -> Tensor:
        loader = make_loader(examples.take(positions), backbone, BATCH)
        batches = progress.track(loader, "features")
        return torch.cat([backbone.query(batch).float().cpu() for batch in batches])

    return cache.lookup(backbone, examples.source, examples.ids, compute)


def untrained_accuracy(
    backbone: Backbone, stream: Stream, cache: QueryCache, seed: int
) -> list[float]:
    """Return b [tasks]: the test accuracy of a random linear head on the frozen features.

    It is what forward transfer is measured against, since an untrained method has no head to ask.
    """
    with seeded(seed, "untrained"):
        head = torch.nn.Linear(backbone.query_size, len(stream.class_names))
    accuracies = []
    for task in stream:
        rows = _features(backbone, task.test, cache, Progress(quiet=True)).cpu()
        with torch.no_grad():
            guess = head(rows).argmax(dim=1).numpy()
        accuracies.append(float((guess == task.test.y).mean()))
    return accuracies


def sample_batch(backbone: Backbone, examples: Examples) -> dict[str, Tensor]:
    """Return one sample to count FLOPs on: for texts, the one of median length."""
    middle = 0
    if isinstance(examples.x, list) and isinstance(examples.x[0], str):
        lengths = [len(text) for text in examples.x]
        middle = int(np.argsort(lengths, kind="stable")[len(lengths) // 2])
    return dict(backbone.prepare(examples.take([middle]).x))
