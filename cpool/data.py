"""From examples to batches that a model takes."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cpool.backbones import Backbone
from cpool.errors import DataError
from cpool.streams import Examples

__all__ = ["PreparedCache", "as_examples", "batches", "make_loader"]

# Prepared images of a split are kept up to this size; larger splits are prepared batch by batch.
KEEP_BYTES = 1 << 30


def as_examples(data: Any) -> Examples:
    """Return `data` as examples: a pair (x, y), inputs alone (labels 0), or examples as they are.

    Samples are numbered in their order, under a source that is the SHA-256 of the inputs, so that
    cached features can be found again and never be mistaken for those of other data.

    >>> len(as_examples((["a text", "another"], [0, 1])))
    2
    """
    if isinstance(data, Examples):
        return data
    pair = isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str)
    x, y = data if pair else (data, None)
    if isinstance(x, str):
        raise DataError(
            expected="a sequence of texts or images",
            got="a single string",
            remedy="Put it into a list: [text].",
        )
    x = x.numpy(force=True) if isinstance(x, Tensor) else x
    x = x if isinstance(x, np.ndarray) else list(x)
    labels = np.zeros(len(x), np.int64) if y is None else _whole(y)
    return Examples(x, labels, np.arange(len(x), dtype=np.int64), _digest(x))


def _whole(y: Any) -> np.ndarray:
    values = y.numpy(force=True) if isinstance(y, Tensor) else np.asarray(y)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            expected="labels that are whole numbers",
            got=f"{values.dtype}",
            remedy="Number the classes, and cast the labels to int64.",
        )
    return values.astype(np.int64)


def _digest(x: Any) -> str:
    digest = hashlib.sha256()
    for item in [x] if isinstance(x, np.ndarray) and x.dtype != object else x:
        data = item.encode() if isinstance(item, str) else np.ascontiguousarray(item).tobytes()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class PreparedCache:
    """Keeps the prepared inputs of image splits, so that a run prepares each image once."""

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self.keep_bytes = keep_bytes
        self._kept: dict[tuple[int, str], dict[str, Tensor]] = {}
        self._alive: list[Examples] = []

    def get(self, backbone: Backbone, examples: Examples) -> dict[str, Tensor] | None:
        """Return all prepared inputs of `examples`, or None when they are too large or text."""
        if backbone.kind != "vision" or not len(examples):
            return None
        key = (id(examples), backbone.fingerprint)
        if key not in self._kept:
            one = backbone.prepare(examples.take(np.arange(1)).x)
            size = sum(t.numel() * t.element_size() for t in one.values()) * len(examples)
            if size > self.keep_bytes:
                return None
            self._kept[key] = backbone.prepare(examples.x)
            self._alive.append(examples)  # an id is only unique while its object lives
        return self._kept[key]


class _Rows(Dataset[int]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


def make_loader(
    examples: Examples,
    backbone: Backbone,
    batch_size: int = 64,
    *,
    shuffle: bool = False,
    seed: int = 0,
    query: Float[Tensor, "n Q"] | None = None,
    inputs: bool = True,
    prepared: PreparedCache | None = None,
    max_tokens: int | None = None,
) -> DataLoader[Any]:
    """Return a loader of batches with "labels" and the model's inputs.

    Args:
        examples: a split of a task.
        backbone: whose `prepare` makes the inputs.
        batch_size: B.
        shuffle: a new order each pass, from `seed`.
        seed: of the order.
        query: query features of all examples, to go along as "query".
        inputs: False leaves the model inputs out, for methods that need the query only.
        prepared: keeps prepared images between loaders.
        max_tokens: longest text in tokens; the model's own limit by default.
    """
    kept = prepared.get(backbone, examples) if prepared is not None and inputs else None
    labels = torch.as_tensor(examples.y)

    def collate(rows: list[int]) -> dict[str, Tensor]:
        index = np.asarray(rows)
        batch: dict[str, Tensor] = {}
        if kept is not None:
            batch.update({key: value[index] for key, value in kept.items()})
        elif inputs:
            batch.update(backbone.prepare(examples.take(index).x, max_tokens=max_tokens))
        if query is not None:
            batch["query"] = query[index]
        return {**batch, "labels": labels[index]}

    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        _Rows(len(examples)),
        batch_size=batch_size,
        shuffle=shuffle,
        generator=generator,
        collate_fn=collate,
    )


def batches(
    examples: Examples,
    backbone: Backbone,
    batch_size: int = 64,
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> Iterator[Mapping[str, Tensor]]:
    """Iterate once over `examples` as batches: the short way for a loop of one's own."""
    yield from make_loader(examples, backbone, batch_size, shuffle=shuffle, seed=seed)
