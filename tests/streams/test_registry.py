"""Named streams: the registry, and what `load_stream` says of names and options."""

import inspect
from pathlib import Path

import pytest

from cpool import streams
from cpool.errors import ConfigError, DataError, UnknownNameError
from cpool.streams import STREAMS, load_stream, split_digits

NAMES = [
    "banking77",
    "clinc150",
    "image_folder",
    "permuted_digits",
    "rotated_digits",
    "split_cifar100_small",
    "split_digits",
    "split_fashion_mnist",
    "text_file",
]


def test_names_summaries_and_needs() -> None:
    assert list(STREAMS) == NAMES
    for name, info in STREAMS.items():
        assert info.builder.__name__ == name and getattr(streams, name) is info.builder
        assert 10 < len(info.summary) < 90 and "\n" not in info.summary and info.needs
        assert {"tasks", "seed", "validation"} <= set(info.options)
        assert inspect.getdoc(info.builder)


def test_exports_are_sorted_and_there() -> None:
    assert all(hasattr(streams, name) for name in streams.__all__)
    capitals = sorted(n for n in streams.__all__ if n.isupper())
    classes = sorted(n for n in streams.__all__ if n[0].isupper() and not n.isupper())
    functions = sorted(n for n in streams.__all__ if n[0].islower())
    assert streams.__all__ == [*capitals, *classes, *functions]


def test_loads_with_the_streams_own_defaults() -> None:
    assert load_stream("split_digits").describe() == split_digits().describe()
    options = {"tasks": 2, "seed": 3, "validation": 0.2, "scenario": "task"}
    loaded = load_stream("split_digits", **options)
    assert loaded.describe() == split_digits(**options).describe()
    assert len(load_stream("rotated_digits", tasks=2, max_angle=90)) == 2


def test_data_goes_to_those_that_need_it(tmp_path: Path) -> None:
    assert len(load_stream("split_digits", data=tmp_path)) == 5
    with pytest.raises(DataError, match=str(tmp_path)):
        load_stream("clinc150", data=tmp_path)


def test_unknown_stream_names_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"a known stream .*'split_digit'. Did you mean 'split_digits'"
    ):
        load_stream("split_digit")


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"option of clinc150 .*Did you mean 'train_per_class'"
    ):
        load_stream("clinc150", train_perclass=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'max_angle'"):
        load_stream("rotated_digits", maxangle=3)
    with pytest.raises(UnknownNameError):
        load_stream("split_digits", max_angle=3)


@pytest.mark.parametrize("name", ["image_folder", "text_file"])
def test_needed_options(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"path= for the stream '{name}'; got none. It needs path="
    ):
        load_stream(name)
