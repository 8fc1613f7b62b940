"""Named streams: the registry, and what `load_stream` says of names and options."""

import inspect
from pathlib import Path

import pytest

from cpool import streams
from cpool.errors import ConfigError, DataError, UnknownNameError
from cpool.experiment.schema import stream_section
from cpool.streams import ARRANGEMENTS, STREAMS, load_stream, split_digits

NAMES = [
    "banking77",
    "blurry",
    "clinc150",
    "conflicting_intents",
    "few_shot",
    "five_datasets",
    "gradual_drift",
    "image_domains",
    "image_folder",
    "label_noise",
    "long_tailed",
    "omniglot50",
    "online",
    "permuted_digits",
    "repeated",
    "rotated_digits",
    "rotated_inverted_digits",
    "rotated_inverted_fashion",
    "snips",
    "split_cifar100_small",
    "split_digits",
    "split_fashion_mnist",
    "text_file",
]
COMMON = {"tasks", "seed", "validation", "train_per_class", "test_per_class", "subset_seed"}
OWN_DATA = {"image_domains", "image_folder", "text_file", *ARRANGEMENTS}
FILES = {name: info for name, info in STREAMS.items() if "(" in info.needs and name not in OWN_DATA}


def test_names_summaries_and_needs() -> None:
    assert list(STREAMS) == NAMES
    for name, info in STREAMS.items():
        assert info.builder.__name__ == name and getattr(streams, name) is info.builder
        assert 10 < len(info.summary) < 90 and "\n" not in info.summary and info.needs
        assert set(info.options) >= COMMON
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


@pytest.mark.parametrize("name", FILES)
def test_a_missing_data_set_names_its_files_and_where_they_are_to_be_had(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        load_stream(name, data=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    # The remedy has the words of `cpool list streams`: files and origin of the first that lacks.
    needs, origin = caught.value.remedy.split(", put ")[0], caught.value.remedy
    assert needs.removeprefix("Get it from ") in FILES[name].needs
    assert any(word in origin for word in ("GitHub", "University of Toronto"))


def test_the_list_of_streams_say_where_from() -> None:
    assert len(FILES) == 9 and all(
        "Git" in info.needs or "CIFAR" in info.needs for info in FILES.values()
    )
    assert all("of=" in STREAMS[name].needs for name in ARRANGEMENTS)


def test_every_stream_is_a_section_of_an_experiment() -> None:
    section = stream_section("blurry")
    made = section(name="blurry", of="clinc150", tasks=5, disjoint=0.5, options={"by": "random"})
    assert made.blurry == 0.1 and made.stochastic is True
    for name, info in STREAMS.items():
        fields = set(stream_section(name).model_fields)
        assert fields == {"name", *info.options}
    with pytest.raises(ValueError, match="disjoint"):
        section(name="blurry", of="clinc150", disjoint="half")


@pytest.mark.parametrize("name", sorted(ARRANGEMENTS))
def test_an_arrangement_needs_something_to_arrange(name: str) -> None:
    with pytest.raises(ConfigError, match=f"of= for the stream '{name}'; got none"):
        load_stream(name)


@pytest.mark.parametrize("name", ["image_domains", "image_folder", "text_file"])
def test_needed_options(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"path= for the stream '{name}'; got none. It needs path="
    ):
        load_stream(name)
