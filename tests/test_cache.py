"""QueryCache: computed once, never stale, never wrong after a crash."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cpool.cache as cache_module
from cpool.backbones import wrap_model
from cpool.cache import QueryCache
from cpool.errors import CheckpointError, ConfigError, DataError
from tests import tiny

TYPES = [torch.float32, torch.float16]
WIDTH = tiny.WIDTH


class Source:
    """Features by id, and a record of which were asked for."""

    def __init__(self, ids: Any, factor: float = 1.0) -> None:
        self.ids, self.factor = np.asarray(ids), factor
        self.asked: list[int] = []

    def __call__(self, positions: np.ndarray) -> Tensor:
        wanted = self.ids[positions]
        self.asked += wanted.tolist()
        return self.values(wanted)

    def values(self, ids: Any) -> Tensor:
        number = torch.as_tensor(np.asarray(ids)).float()[:, None]
        return self.factor * torch.sin(number + torch.arange(WIDTH))


def ask(cache: QueryCache, ids: Any, source: str = "data", **options: Any) -> list[int]:
    """Look ids up, check what comes back, and return the ids that were computed."""
    backbone = options.pop("backbone", None) or tiny.backbone("vit")
    compute = Source(ids)
    result = cache.lookup(backbone, source, ids, compute, **options)
    tolerance = 1e-3 if cache.dtype == torch.float16 else 0
    torch.testing.assert_close(result, compute.values(ids), rtol=0, atol=tolerance)
    return compute.asked


@pytest.fixture(params=["memory", "disk"])
def make(request: Any, tmp_path: Path) -> Callable[..., QueryCache]:
    directory = tmp_path / "cache" if request.param == "disk" else None
    return lambda **options: QueryCache(directory, **options)


@pytest.mark.parametrize("dtype", TYPES)
def test_only_missing_positions_are_computed(
    make: Callable[..., QueryCache], dtype: torch.dtype
) -> None:
    cache = make(dtype=dtype)
    assert ask(cache, [5, 3, 9]) == [3, 5, 9]
    assert (cache.hits, cache.misses) == (0, 3)
    assert ask(cache, [9, 3, 3, 5]) == []
    assert ask(cache, torch.tensor([1, 9, 10**12, 1, 5])) == [1, 10**12]
    assert (cache.hits, cache.misses) == (6, 6)
    assert ask(cache, []) == []


@pytest.mark.parametrize("dtype", TYPES)
def test_hit_equals_miss(make: Callable[..., QueryCache], dtype: torch.dtype) -> None:
    cache, ids = make(dtype=dtype), np.arange(7)
    compute = Source(ids, factor=0.123)
    first = cache.lookup(tiny.backbone("vit"), "s", ids, compute)
    second = cache.lookup(tiny.backbone("vit"), "s", ids, compute)
    assert first.dtype == torch.float32 and torch.equal(first, second)


def test_whatever_differs_is_computed_anew(make: Callable[..., QueryCache]) -> None:
    cache, ids = make(), [1, 2]
    vit = tiny.KINDS["vit"]()
    others = [
        {"backbone": vit},
        {"backbone": tiny.backbone("deit")},
        {"backbone": wrap_model(tiny.model("vit"), pooling="mean")},
        {"backbone": wrap_model(tiny.model("vit"), normalize=True)},
        {"backbone": wrap_model(tiny.model("vit"), layers=(2,))},
        {"backbone": wrap_model(tiny.model("vit"), dtype="bfloat16")},
        {"backbone": vit, "transform": "flip"},
        {"backbone": vit, "source": "other data"},
    ]
    for options in others:
        assert ask(cache, ids, **options) == ids
    for options in others:
        assert ask(cache, ids, **options) == []
    with torch.no_grad():
        vit.model.layernorm.weight[0] += 1
    assert ask(cache, ids, backbone=vit) == ids
    vit.model.layernorm.weight.data[0] -= 1  # as it was before: found again
    assert ask(cache, ids, backbone=vit) == []


def test_a_changed_processor_is_computed_anew(make: Callable[..., QueryCache]) -> None:
    cache, ids, vit = make(), [1, 2], tiny.KINDS["vit"]()
    other = wrap_model(vit.model, tiny.image_processor())
    other.processor.image_mean = [0.1, 0.2, 0.3]
    assert other.fingerprint == vit.fingerprint
    for backbone in (vit, other):
        assert ask(cache, ids, backbone=backbone) == ids
        assert ask(cache, ids, backbone=backbone) == []
    vit.processor.image_mean = [0.1, 0.2, 0.3]  # after loading: now the same as the other
    assert ask(cache, ids, backbone=vit) == []
    vit.processor.size = {"height": 8, "width": 8}
    assert ask(cache, ids, backbone=vit) == ids


def test_the_real_thing(make: Callable[..., QueryCache]) -> None:
    backbone, batch = tiny.backbone("bert"), tiny.batch("bert", 8)
    cache, ids = make(), np.arange(100, 108)
    passes = []

    for _ in range(3):
        for part in (slice(0, 5), slice(3, 8), slice(0, 8)):
            mine = tiny.rows(batch, part)

            def compute(positions: np.ndarray, mine: dict[str, Tensor] = mine) -> Tensor:
                passes.append(len(positions))
                return backbone.query(tiny.rows(mine, torch.from_numpy(positions)))

            got = cache.lookup(backbone, "s", ids[part], compute)
            expected = backbone.query(mine)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert passes == [5, 3]


def test_clear(make: Callable[..., QueryCache]) -> None:
    cache = make()
    ask(cache, [1, 2])
    cache.clear()
    assert (cache.hits, cache.misses) == (0, 0)
    assert ask(cache, [1, 2]) == [1, 2]
    if cache.directory is not None:
        (cache.directory / "notes.txt").write_text("mine")
        cache.clear()
        assert [path.name for path in cache.directory.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("dtype", TYPES)
def test_another_process_finds_them(tmp_path: Path, dtype: torch.dtype) -> None:
    ask(QueryCache(tmp_path, dtype), range(50))
    other = QueryCache(tmp_path, dtype)
    assert ask(other, range(45, 55)) == [50, 51, 52, 53, 54]
    third = QueryCache(tmp_path, dtype)
    assert ask(third, range(55)) == []
    # Each type has files of its own.
    wanted = torch.float16 if dtype == torch.float32 else torch.float32
    assert ask(QueryCache(tmp_path, wanted), range(3)) == [0, 1, 2]


def rows_file(folder: Path) -> Path:
    (path,) = folder.glob("*/*.rows")
    return path


@pytest.mark.parametrize("cut", [1, 10, 139, 140, 141, 279])
def test_a_torn_end_is_not_believed(tmp_path: Path, cut: int) -> None:
    ask(QueryCache(tmp_path), range(5))
    path = rows_file(tmp_path)
    size = path.stat().st_size // 5  # bytes a record: id, checksum, 32 values
    assert size == 140
    with path.open("r+b") as file:
        file.truncate(5 * size - cut)
    lost = -(-cut // size)
    assert ask(QueryCache(tmp_path), range(5)) == list(range(5 - lost, 5))


@pytest.mark.parametrize("place", [0, 3, 8, 11, 12, 100, 139])
def test_a_damaged_row_is_not_believed(tmp_path: Path, place: int) -> None:
    ask(QueryCache(tmp_path), range(5))
    path = rows_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[2 * 140 + place] ^= 0x40
    path.write_bytes(data)
    assert ask(QueryCache(tmp_path), range(5)) == [2]


def test_zeros_after_a_power_cut_are_not_believed(tmp_path: Path) -> None:
    ask(QueryCache(tmp_path), range(1, 6))
    path = rows_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[280:560] = bytes(280)
    path.write_bytes(data)
    assert ask(QueryCache(tmp_path), range(6)) == [0, 3, 4]


@pytest.mark.slow
def test_a_killed_process_never_leaves_wrong_rows(tmp_path: Path) -> None:
    """Killed in the middle of writing, at no chosen moment; what is left is right."""
    script = textwrap.dedent(
        """
        import sys, numpy as np
        from cpool.cache import QueryCache
        from tests.test_cache import Source
        from tests import tiny
        cache, backbone = QueryCache(sys.argv[1]), tiny.backbone("vit")
        print("ready", flush=True)
        for start in range(0, 10**7, 16):
            ids = np.arange(start, start + 16)
            cache.lookup(backbone, "data", ids, Source(ids))
        """
    )
    code = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    with subprocess.Popen(code, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.4)
        process.kill()
    cache = QueryCache(tmp_path)
    computed = ask(cache, np.arange(16_000))
    assert cache.hits > 16
    assert computed == list(range(cache.hits, 16_000))


def test_several_writers_at_once(tmp_path: Path) -> None:
    one, two = QueryCache(tmp_path), QueryCache(tmp_path)
    for start in range(0, 60, 10):
        ask(one, range(start, start + 10))
        ask(two, range(start + 5, start + 15))
    assert ask(QueryCache(tmp_path), range(65)) == []
    assert len(list(tmp_path.glob("*/*.rows"))) == 2


def test_a_full_disk_says_so_and_is_not_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = QueryCache(tmp_path)
    ask(cache, range(3))
    append = cache_module._append
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_append", lambda path, data: append(path, data[:50]))
        with pytest.raises(CheckpointError, match="50 bytes written"):
            ask(cache, range(3, 6))
    assert ask(cache, range(6)) == [3, 4, 5]
    assert ask(QueryCache(tmp_path), range(6)) == []


@pytest.mark.parametrize(
    ("ids", "match"), [([0.5], "whole numbers"), ([[1]], "whole numbers"), (3, "whole numbers")]
)
def test_wrong_ids(ids: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        QueryCache().lookup(tiny.backbone("vit"), "s", ids, Source(ids))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (torch.zeros(2, 5), r"features of shape \[2 32\]"),
        (torch.zeros(3, 32), r"got \(3, 32\)"),
        (torch.full((2, 32), torch.nan), "finite"),
        (torch.full((2, 32), 1e5), "65,504"),
    ],
)
def test_wrong_features_are_not_kept(values: Tensor, match: str) -> None:
    cache = QueryCache(dtype=torch.float16)
    with pytest.raises(DataError, match=match):
        cache.lookup(tiny.backbone("vit"), "s", [1, 2], lambda positions: values)
    assert ask(cache, [1, 2]) == [1, 2]


def test_wrong_type() -> None:
    with pytest.raises(ConfigError, match="float16"):
        QueryCache(dtype=torch.bfloat16)


def test_a_batch_costs_the_same_in_a_large_table_as_in_a_small_one(
    make: Callable[..., QueryCache],
) -> None:
    backbone = tiny.backbone("vit")

    def seconds(rows: int) -> float:
        cache, ids = make(), np.arange(rows)
        cache.lookup(backbone, f"s{rows}", ids, Source(ids))
        picked = np.random.default_rng(0).integers(0, rows, (100, 64))
        start = time.process_time()
        for batch in picked:
            cache.lookup(backbone, f"s{rows}", batch, Source(batch))
        return time.process_time() - start

    seconds(200)  # the first calls pay for imports
    assert min(seconds(20_000) for _ in range(3)) < 20 * min(seconds(200) for _ in range(3))
