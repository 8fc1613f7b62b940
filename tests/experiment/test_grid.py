"""[search] and [method.search]: order, types, budget, and that none of it can touch test data."""

import dataclasses
import itertools
import tomllib

import pytest
import tomli_w

from cpool.errors import ConfigError, UnknownNameError
from cpool.experiment.reading import read_experiment
from cpool.experiment.schema import grid_section
from cpool.methods import METHODS

STREAM = '[stream]\nname = "split_digits"\n'
SEARCH = "[search]\nbudget = 6\n"
L2P = '[[method]]\nname = "l2p"\n'
GRID = '[method.search]\n"train.lr" = [0.003, 0.01, 0.03]\nlength = [5, 10]\n'


@pytest.fixture
def read(tmp_path):
    def read(text: str, *sets: str):
        (tmp_path / "x.toml").write_text(text, encoding="utf-8")
        return read_experiment(tmp_path / "x.toml", sets)

    return read


def test_candidates_come_in_the_order_of_the_product_and_of_the_file(read):
    (entry,) = read(STREAM + SEARCH + L2P + GRID).methods
    settings = [tuple(candidate.settings.values()) for candidate in entry.candidates]
    assert settings == list(itertools.product([0.003, 0.01, 0.03], [5, 10]))
    for candidate in entry.candidates:
        assert (candidate.train.lr, candidate.method.length) == tuple(candidate.settings.values())
    turned = GRID.splitlines()
    (entry,) = read(STREAM + SEARCH + L2P + "\n".join([turned[0], turned[2], turned[1]])).methods
    assert list(entry.candidates[1].settings.items()) == [("length", 5), ("train.lr", 0.01)]


def test_the_row_itself_is_as_without_a_search_until_something_is_chosen(read):
    plain = read(STREAM + L2P).methods[0]
    (entry,) = read(STREAM + SEARCH + L2P + GRID).methods
    assert (entry.method, entry.train, entry.final) == (plain.method, plain.train, entry)


def test_other_settings_of_the_row_hold_for_every_candidate(read):
    text = STREAM + "[train]\nepochs = 3\n" + SEARCH + L2P + "top_k = 2\ntrain.batch_size = 8\n"
    (entry,) = read(text + GRID).methods
    for candidate in entry.candidates:
        assert candidate.method.top_k == 2
        assert (candidate.train.epochs, candidate.train.batch_size) == (3, 8)


def test_a_table_in_a_table_is_the_same_as_a_dotted_key(read):
    dotted = read(STREAM + SEARCH + L2P + '[method.search]\n"train.lr" = [0.1, 0.2]\n')
    nested = read(STREAM + SEARCH + L2P + "[method.search.train]\nlr = [0.1, 0.2]\n")
    changed = read(STREAM + SEARCH + L2P + GRID, "method.l2p.search={train={lr=[0.1,0.2]}}")
    assert dotted == nested == changed


def test_the_options_of_joint_training_can_be_searched(read):
    text = STREAM + SEARCH + '[[method]]\nname = "joint"\nof = "l2p"\noptions.top_k = 2\n'
    (entry,) = read(text + "[method.search]\noptions.length = [1, 2]\n").methods
    assert [c.method.inner.length for c in entry.candidates] == [1, 2]
    assert {c.method.inner.top_k for c in entry.candidates} == {2}


def test_every_method_has_a_grid_of_all_of_its_settings():
    for name, method in METHODS.items():
        own = {field.name for field in dataclasses.fields(method)}
        assert set(grid_section(name).model_fields) == {*own, "train"}


def test_what_was_chosen_is_read_and_written(read):
    text = STREAM + SEARCH + L2P + GRID + '[method.chosen]\n"train.lr" = 0.01\nlength = 10\n'
    experiment = read(text)
    final = experiment.methods[0].final
    assert (final.train.lr, final.method.length) == (0.01, 10)
    assert experiment.methods[0].method.length == 5
    again = read(tomli_w.dumps(experiment.resolved()))
    assert again == experiment
    assert again.resolved() == tomllib.loads(tomli_w.dumps(experiment.resolved()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # test data, in all the ways that come to mind
        (SEARCH + 'evaluate = "test"\n' + L2P + GRID, ["search.evaluate", "used once"]),
        (SEARCH + "validation = 0\n" + L2P + GRID, ["search.validation = 0", "0.2"]),
        (SEARCH + "validation = 1\n" + L2P + GRID, ["search.validation = 1", "between 0 and 1"]),
        (SEARCH + L2P + '[method.search]\nevaluate = ["test"]\n', ["'evaluate'", "used once"]),
        (SEARCH + L2P + '[method.search]\n"stream.seed" = [0, 1]\n', ["'stream.seed'", "Remove"]),
        (SEARCH + L2P + "[method.search.stream]\ntest = [0]\n", ["'stream.test'", "used once"]),
        # the budget
        ("[search]\nbudget = 5\n" + L2P + GRID, ["at most 5", "6 (3 train.lr × 2 length)"]),
        ("[search]\n" + L2P + GRID, ["'search.budget'", "Add it"]),
        ("[search]\nbudget = 0\n" + L2P + GRID, ["search.budget", "from 1"]),
        # parts that are missing or meaningless
        (L2P + GRID, ["a [search] for method.l2p.search", "budget = 4"]),
        (SEARCH + L2P, ["a [method.search] for at least one method"]),
        (SEARCH + L2P + "[method.search]\n", ["at least one list of values"]),
        (SEARCH + L2P + "[method.search]\nlength = []\n", ["length", "not empty"]),
        (SEARCH + L2P + "[method.search]\nlength = 5\n", ["length", "a list in [ ]"]),
        (SEARCH + L2P + "[method.search]\nlength = [5, 5]\n", ["different values", "once"]),
        (SEARCH + L2P + "[method.search]\nlength = [5, 2.5]\n", ["length.1", "a whole number"]),
        (SEARCH + L2P + '[method.search]\n"train.lr" = [0.1, -1.0]\n', ["lr", "above 0"]),
        (SEARCH + L2P + '[method.search]\nlabel = ["a", "b"]\n', ["label"]),
        (SEARCH + L2P + "[method.chosen]\nlength = 5\n", ["method.l2p.search beside"]),
        (SEARCH + L2P + GRID + "[method.chosen]\nlength = 5\n", ["one of the 6 points"]),
    ],
)
def test_what_is_no_search_on_validation_data_is_refused(read, text, words):
    with pytest.raises(ConfigError) as caught:
        read(STREAM + text)
    message = str(caught.value)
    assert all(word in message for word in [*words, "x.toml"]), message


def test_a_stream_without_validation_data_is_refused_unless_the_search_holds_some_out(read):
    stream = STREAM + "validation = 0\n"
    with pytest.raises(ConfigError, match=r"stream\.validation = 0.*Set search\.validation"):
        read(stream + SEARCH + L2P + GRID)
    assert read(stream + SEARCH + "validation = 0.3\n" + L2P + GRID).search.validation == 0.3


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("lenght = [1]", "method.l2p.search.length"),
        ('"train.lrr" = [1]', "method.l2p.search.train.lr"),
        ("epochs = [1]", "method.l2p.search.train.epochs"),
    ],
)
def test_unknown_keys_of_a_grid_name_the_nearest(read, key, close):
    with pytest.raises(UnknownNameError, match=f"'{close}'"):
        read(STREAM + SEARCH + L2P + f"[method.search]\n{key}\n")
