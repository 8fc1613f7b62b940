"""--set and --seeds."""

import pytest

from cpool.errors import ConfigError, UnknownNameError
from cpool.experiment.overrides import apply_override, parse_seeds, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("0.5", 0.5),
        ("true", True),
        ('"true"', "true"),
        ("[1, 2]", [1, 2]),
        ("embedded", "embedded"),
        ("owner/model-v2", "owner/model-v2"),
        ("./folder", "./folder"),
        ("1e-3", 1e-3),
        ("False", "False"),  # no TOML; the key's type refuses it later
    ],
)
def test_values_are_toml_and_bare_words_are_texts(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["", "[1,", "1 2", "2\nseeds = 3", '"open'])
def test_what_is_neither_is_refused(text):
    with pytest.raises(ConfigError):
        parse_value(text)


def test_tables_are_made_on_the_way():
    raw = {}
    apply_override(raw, "train.epochs=2")
    assert raw == {"train": {"epochs": 2}}


def test_a_method_is_addressed_by_label_or_name_the_longest_first():
    raw = {
        "method": [
            {"name": "l2p"},
            {"name": "l2p", "label": "l2p.small"},
        ]
    }
    apply_override(raw, "method.l2p.top_k=3")
    apply_override(raw, "method.l2p.small.train.lr=0.1")
    assert raw["method"][0] == {"name": "l2p", "top_k": 3}
    assert raw["method"][1] == {"name": "l2p", "label": "l2p.small", "train": {"lr": 0.1}}


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'l2p'"):
        apply_override({"method": [{"name": "l2p"}]}, "method.l2q.top_k=3")


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=3", "method.top_k=3", "seeds.x=1"])
def test_broken_addresses_are_refused(text):
    with pytest.raises(ConfigError):
        apply_override({"method": [{"name": "l2p"}], "seeds": [0]}, text)


def test_seeds():
    assert parse_seeds("0, 1,12") == [0, 1, 12]


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1.0", "0 1", "²"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)
