"""From examples to batches that a model takes."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cpool.backbones import Around, Backbone, Truncations
from cpool.errors import DataError
from cpool.streams import Examples

__all__ = [
    "GroupedBatches",
    "PreparedCache",
    "as_completions",
    "as_examples",
    "batches",
    "by_length",
    "make_loader",
]

KEEP_BYTES = 1 << 30


def as_examples(data: Any) -> Examples:
    """Return `data` as examples: a pair (x, y), inputs alone (labels 0), or examples as they are.

    Samples are numbered in their order, under a source that is the SHA-256 of the inputs, so that
    cached features can be found again and never be mistaken for those of other data.

    Raises:
        DataError: a single text; labels that are not whole numbers; an input that is no text,
            array, PIL image or path; a file that cannot be read.

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


def as_completions(texts: Sequence[str], completions: Sequence[str], label: int = 0) -> Examples:
    """Return texts with what shall follow each, for a model that learns completions.

    Args:
        texts: what is asked, n of them.
        completions: what follows each.
        label: the class that stands for their task; the next number for each further task.

    Raises:
        DataError: other numbers of texts and completions.

    >>> some = as_completions(["The capital of France is"], ["Paris"])
    >>> some.x, some.completions
    (['The capital of France is'], ['Paris'])
    """
    made = as_examples((list(texts), np.full(len(texts), label, np.int64)))
    # Scores are kept under the source of the rows, so it has to tell completions apart, too.
    source = as_examples([*texts, *completions]).source
    return replace(made, source=source, completions=list(completions))


def by_length(examples: Examples) -> npt.NDArray[np.int64]:
    """Return an order in which texts of similar length are neighbours; images stay as they are.

    A batch is as wide as its longest text, so batches in this order waste least on padding.
    """
    if len(examples) and isinstance(examples.x[0], str):
        return np.argsort([len(text) for text in examples.x], kind="stable")
    return np.arange(len(examples))


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
    # A whole array numbers its rows, a list its items, so that the two must never be confused.
    whole = isinstance(x, np.ndarray) and not x.dtype.hasobject
    digest = hashlib.sha256(b"array" if whole else b"items")
    for item in [x] if whole else x:
        tag, data = _content(item)
        digest.update(f"{tag} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def _content(item: Any) -> tuple[str, bytes]:
    """Return what kind of input this is, with the shape of arrays, and its bytes."""
    if isinstance(item, str):
        return "text", item.encode()
    if isinstance(item, Path):
        return "file", _bytes_of(item)
    if hasattr(item, "getbands"):  # PIL, without importing it; pixels as a backbone sees them
        item = np.asarray(item if item.mode in ("L", "RGB") else item.convert("RGB"))
    item = item.numpy(force=True) if isinstance(item, Tensor) else item
    if not isinstance(item, np.ndarray) or item.dtype.hasobject:
        raise DataError(
            expected="texts, arrays, PIL images or paths",
            got="an array of objects" if isinstance(item, np.ndarray) else type(item).__name__,
            remedy="Turn each input into one of these: numpy.asarray(…), str(…) or Path(…).",
        )
    return f"array {item.dtype.str} {item.shape}", item.tobytes()


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            expected="an image file that can be read",
            got=f"{path}: {error.strerror}",
            remedy="Check or drop the file.",
        ) from error


class PreparedCache:
    """Keeps the prepared inputs of image splits, so that a run prepares each image once.

    Args:
        keep_bytes: how much to keep in all; the oldest splits are dropped first, and a split
            larger than this is prepared batch by batch.
    """

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self.keep_bytes = keep_bytes
        self._kept: OrderedDict[tuple[str, ...], dict[str, Tensor]] = OrderedDict()

    def get(self, backbone: Backbone, examples: Examples) -> dict[str, Tensor] | None:
        """Return all prepared inputs of `examples`, or None when they are too large or text."""
        if backbone.kind != "vision" or not len(examples):
            return None
        ids = hashlib.sha256(examples.ids.tobytes()).hexdigest()
        key = (backbone.fingerprint, backbone.transform_fingerprint, examples.source, ids)
        if key not in self._kept:
            one = backbone.prepare(examples.take(np.arange(1)).x)
            if _bytes(one) * len(examples) > self.keep_bytes:
                return None
            self._kept[key] = backbone.prepare(examples.x)
            while sum(map(_bytes, self._kept.values())) > self.keep_bytes:
                self._kept.popitem(last=False)
        return self._kept[key]


def _bytes(batch: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in batch.values())


class GroupedBatches(Sampler[list[int]]):
    """Shuffled batches of texts of similar length: random, but with little padding.

    Each pass shuffles all rows, sorts each stretch of `stretch` batches by length, cuts it into
    batches and shuffles these. (The same idea as `group_by_length` of the transformers Trainer.)

    Args:
        lengths: of the texts, in characters.
        batch_size: B.
        generator: of the order.
        stretch: batches that are sorted together; 1 is a plain shuffle.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        batch_size: int,
        generator: torch.Generator,
        stretch: int = 16,
    ) -> None:
        self.lengths, self.batch_size, self.drop_last = lengths, batch_size, False
        self.generator, self.stretch = generator, stretch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rows = torch.randperm(len(self.lengths), generator=self.generator).numpy()
        size, cut = self.batch_size, self.batch_size * self.stretch
        made: list[list[int]] = []
        for start in range(0, len(rows), cut):
            part = rows[start : start + cut]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            made += [part[i : i + size].tolist() for i in range(0, len(part), size)]
        for number in torch.randperm(len(made), generator=self.generator).tolist():
            yield made[number]


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
    extra: Mapping[str, Tensor] | None = None,
    inputs: bool = True,
    prepared: PreparedCache | None = None,
    max_tokens: int | None = None,
    around: Around = ("", ""),
) -> DataLoader[Any]:
    """Return a loader of batches with "labels" and the model's inputs.

    Args:
        examples: a split of a task.
        backbone: whose `prepare` makes the inputs.
        batch_size: B.
        shuffle: a new order each pass, from `seed`; texts of similar length share a batch.
        seed: of the order.
        extra: features of all examples that go along, by name ("query" [n Q], "features" [n F]).
        inputs: False leaves the model inputs out, for methods that need the features only.
        prepared: keeps prepared images between loaders.
        max_tokens: longest text in tokens; the model's own limit by default.
        around: words before and after each text, as for `Backbone.prepare`.
    """
    kept = prepared.get(backbone, examples) if prepared is not None and inputs else None
    labels = torch.as_tensor(examples.y)

    def collate(rows: list[int]) -> dict[str, Tensor]:
        index = np.asarray(rows)
        batch: dict[str, Tensor] = {}
        if kept is not None:
            batch.update({key: value[index] for key, value in kept.items()})
        elif inputs:
            part = examples.take(index)
            batch.update(backbone.prepare(part.x, max_tokens, around, part.completions))
        batch.update({name: rows[index] for name, rows in (extra or {}).items()})
        return {**batch, "labels": labels[index]}

    generator = torch.Generator().manual_seed(seed)
    rows = _Rows(len(examples))
    if shuffle and inputs and len(examples) and isinstance(examples.x[0], str):
        lengths = np.array([len(text) for text in examples.x])
        grouped = GroupedBatches(lengths, batch_size, generator)
        # With a generator of its own no pass draws a seed for workers from the task's numbers.
        return DataLoader(
            rows, batch_sampler=grouped, collate_fn=collate, generator=torch.Generator()
        )
    return DataLoader(
        rows, batch_size=batch_size, shuffle=shuffle, generator=generator, collate_fn=collate
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
    loader = iter(make_loader(examples, backbone, batch_size, shuffle=shuffle, seed=seed))
    cut = Truncations()
    while True:
        with cut.collect():
            batch = next(loader, None)
        if batch is None:
            break
        yield batch
    cut.warn()
