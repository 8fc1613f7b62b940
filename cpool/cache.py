"""QueryCache: query features that are computed once, in memory or on disk.

The frozen model gives the same query for the same view of a sample for ever, so a run needs one
pass a sample, not one a step. An entry is found by the fingerprint of the backbone and its query
choice, the fingerprint of its processor, the name of the transform, the source of the data and the
sample id: what changes one of these finds nothing old.
"""

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from cpool._io import sha256_of_bytes, write_json
from cpool.backbones import Backbone
from cpool.errors import CheckpointError, ConfigError, DataError

__all__ = ["QueryCache"]

Array = npt.NDArray[Any]
Compute = Callable[[Array], Float[Tensor, "m Q"]]
_TYPES = {torch.float32: np.dtype("<f4"), torch.float16: np.dtype("<f2")}


class QueryCache:
    """Query features by backbone, transform and sample id.

    Args:
        directory: where to keep them; None keeps them in memory. Several processes may share it:
            each writes files of its own, row by row with a checksum, so that a process that is
            killed leaves at most a row that is not believed.
        dtype: float32, or float16 for half the space. What is returned is float32 and the same on
            a hit and on the miss before it.

    Attributes:
        hits: ids that were found, since the cache was made or cleared.
        misses: ids that had to be computed.
    """

    def __init__(
        self, directory: Path | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        if dtype not in _TYPES:
            raise ConfigError(
                expected="torch.float32 or torch.float16",
                got=str(dtype),
                remedy="float16 halves the space at about three digits.",
            )
        self.directory = None if directory is None else Path(directory)
        self.dtype = dtype
        self.hits = self.misses = 0
        self._tables: dict[str, _Table] = {}

    def lookup(
        self,
        backbone: Backbone,
        source: str,
        ids: Any,
        compute: Compute,
        transform: str = "eval",
        width: int | None = None,
    ) -> Float[Tensor, "n Q"]:
        """Return the query features of samples, computing only those that are missing.

        Args:
            backbone: the model; its fingerprints and query choice are part of the key.
            source: fingerprint of the data that the ids number.
            ids: sample ids [n], a tensor or array of whole numbers, in any order, repeated or not.
            compute: gets positions in `ids` [m], returns their features [m Q].
            transform: name of the deterministic view ("eval", "flip", …).
            width: of the features; Q by default.

        Returns:
            Features in the order of `ids`, float32, on the backbone's device, without gradient.

        Raises:
            DataError: ids that are not whole numbers, or features that are not finite or not [m Q].
        """
        wanted = _whole(ids)
        table = self._table(backbone, source, transform, width or backbone.query_size)
        rows = table.find(wanted)
        absent = np.flatnonzero(rows < 0)
        self.hits += len(wanted) - len(absent)
        self.misses += len(absent)
        if len(absent):
            # A repeated id is computed once.
            new, first = np.unique(wanted[absent], return_index=True)
            positions = absent[first]
            table.add(new, _checked(compute(positions), len(positions), table))
            rows = table.find(wanted)
        values = table.read(rows).astype(np.float32, copy=False)
        return torch.from_numpy(np.ascontiguousarray(values)).to(backbone.device)

    def clear(self) -> None:
        """Forget everything, also on disk, and set the counts to 0."""
        self._tables.clear()
        self.hits = self.misses = 0
        if self.directory is not None and self.directory.is_dir():
            # Only folders of this cache: the directory may hold other things.
            for meta in self.directory.glob("*/queries.json"):
                shutil.rmtree(meta.parent)

    def _table(self, backbone: Backbone, source: str, transform: str, width: int) -> "_Table":
        described = {
            "backbone": backbone.fingerprint,
            "query": [backbone.pooling, backbone.normalize, list(backbone.layers)],
            "processor": backbone.transform_fingerprint,
            "transform": transform,
            "source": source,
            "dtype": str(self.dtype).removeprefix("torch."),
            "width": width,
            "schema": 1,
        }
        key = sha256_of_bytes(json.dumps(described, sort_keys=True).encode())
        if key not in self._tables:
            record = np.dtype([("id", "<i8"), ("sum", "<u4"), ("row", _TYPES[self.dtype], width)])
            if self.directory is None:
                self._tables[key] = _Table(record)
            else:
                folder = self.directory / key[:32]
                write_json(folder / "queries.json", described)
                self._tables[key] = _DiskTable(record, folder)
        return self._tables[key]


class _Table:
    """Rows in memory, found by id through a sorted index."""

    def __init__(self, record: np.dtype[Any]) -> None:
        self.record = record
        self.sorted_ids, self.row_of = np.empty(0, np.int64), np.empty(0, np.int64)
        self.rows = np.empty(0, record)
        self.count = 0

    @property
    def width(self) -> int:
        return int(self.record["row"].shape[0])

    def find(self, ids: Array) -> Array:
        """Return the row number of each id, -1 where there is none."""
        if not len(self.sorted_ids):
            return np.full(len(ids), -1)
        place = np.searchsorted(self.sorted_ids, ids).clip(max=len(self.sorted_ids) - 1)
        return np.where(self.sorted_ids[place] == ids, self.row_of[place], -1)

    def index(self, ids: Array, rows: Array) -> None:
        """Note that these rows hold these ids; of a repeated id, the first row counts."""
        ids = np.concatenate([self.sorted_ids, ids])
        rows = np.concatenate([self.row_of, rows])
        # np.unique keeps the first of equals, and sorting what is nearly sorted is fast.
        self.sorted_ids, kept = np.unique(ids, return_index=True)
        self.row_of = rows[kept]

    def add(self, ids: Array, values: Array) -> None:
        """Store rows of new ids."""
        end = self.count + len(ids)
        if end > len(self.rows):
            grown = np.empty(max(end, 2 * len(self.rows)), self.record)
            grown[: self.count] = self.rows[: self.count]
            self.rows = grown
        self.rows["id"][self.count : end] = ids
        self.rows["row"][self.count : end] = values
        self.index(ids, np.arange(self.count, end))
        self.count = end

    def read(self, rows: Array) -> Array:
        """Return the values of rows [n Q]."""
        values: Array = self.rows["row"][rows]
        return values


class _DiskTable(_Table):
    """Rows in files of fixed-size records: id, checksum, values; one file a process."""

    def __init__(self, record: np.dtype[Any], folder: Path) -> None:
        super().__init__(record)
        self.folder = folder
        self.segments: list[tuple[int, Path, Array]] = []  # first row number, file, its records
        self.own: tuple[int, Path] | None = None  # process and file that we append to
        for path in sorted(folder.glob("*.rows")):
            self._open(path)

    def _open(self, path: Path) -> None:
        records = _mapped(path, self.record)
        sums = np.fromiter((_checksum(r.tobytes()) for r in records), np.uint32, len(records))
        good = np.flatnonzero(sums == records["sum"])
        self.segments.append((self.count, path, records))
        self.index(records["id"][good], self.count + good)
        self.count += len(records)

    def add(self, ids: Array, values: Array) -> None:
        """Append records to this process's file, in one write."""
        records = np.zeros(len(ids), self.record)
        records["id"], records["row"] = ids, values
        records["sum"] = [_checksum(r.tobytes()) for r in records]
        self._write(records.tobytes())
        self.index(ids, self.count + np.arange(len(ids)))
        self.count += len(ids)

    def _write(self, data: bytes) -> None:
        if self.own is None or self.own[0] != os.getpid():  # a forked process has a file of its own
            name = f"{os.getpid()}-{secrets.token_hex(4)}.rows"
            self.own = (os.getpid(), self.folder / name)
            self.segments.append((self.count, self.own[1], np.empty(0, self.record)))
        try:
            written = _append(self.own[1], data)
            reason = f"{written} bytes written"
        except OSError as error:
            written, reason = 0, f"{type(error).__name__}: {error.strerror}"
        if written != len(data):
            self.own = None  # what follows a torn record would be misread: never append to it
            raise CheckpointError(
                expected=f"to write {len(data)} bytes into the cache {self.folder}",
                got=reason,
                remedy="Free some space, or keep the cache in memory: QueryCache().",
            )

    def read(self, rows: Array) -> Array:
        """Gather rows from the memory-mapped files [n Q]."""
        values = np.empty((len(rows), self.width), self.record["row"].base)
        starts = np.array([first for first, _, _ in self.segments])
        which = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(which):
            mine = which == number
            local = rows[mine] - starts[number]
            values[mine] = self._records(int(number), int(local.max()) + 1)["row"][local]
        return values

    def _records(self, number: int, needed: int) -> Array:
        first, path, records = self.segments[number]
        if len(records) < needed:  # our own file has grown since it was mapped
            records = _mapped(path, self.record)
            self.segments[number] = (first, path, records)
        return records


def _append(path: Path, data: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        return file.write(data)


def _mapped(path: Path, record: np.dtype[Any]) -> Array:
    complete = path.stat().st_size // record.itemsize  # a torn last record is dropped
    if not complete:
        return np.empty(0, record)
    return np.memmap(path, record, "r", shape=(complete,))


def _checksum(record: bytes) -> int:
    # The checksum field itself (bytes 8 to 12) is left out.
    return zlib.crc32(record[12:], zlib.crc32(record[:8]))


def _whole(ids: Any) -> Array:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise DataError(
            expected="sample ids, whole numbers of shape [n]",
            got=f"{array.dtype} of shape {array.shape}",
            remedy="Pass `examples.ids`.",
        )
    return array.astype(np.int64, copy=False)


def _checked(values: Tensor, number: int, table: _Table) -> Array:
    if values.shape != (number, table.width):
        raise DataError(
            expected=f"features of shape [{number} {table.width}]",
            got=f"{tuple(values.shape)}",
            remedy="compute(positions) returns one row a position, `backbone.query(batch)`.",
        )
    with np.errstate(over="ignore"):  # what overflows float16 is infinite, and refused below
        array = values.detach().float().cpu().numpy().astype(table.record["row"].base)
    if not np.isfinite(array).all():
        raise DataError(
            expected="finite features",
            got=f"NaN or infinity as {array.dtype}",
            remedy="Check the inputs; a float16 cache holds values up to 65,504 only.",
        )
    return array
