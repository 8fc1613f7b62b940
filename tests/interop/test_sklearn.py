"""The classifier of scikit-learn: its conventions, and that it learns what a Learner learns."""

import pickle
from functools import cache

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator

import cpool
from cpool.backbones import load_backbone
from cpool.errors import ConfigError, DataError, StateError, UnknownNameError
from cpool.interop.sklearn import PromptPoolClassifier
from cpool.methods import L2P, PromptTuning
from cpool.seeding import seeded
from tests import tiny

L2P_OPTIONS = {"pool_size": 3, "top_k": 1, "length": 2}
TRAIN = {"epochs": 2, "lr": 0.05, "batch_size": 8}
# A name sorts where a number would not: the second task's classes stand between the first's.
WORDS = (("tree", "cat"), ("river", "dog"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A tiny vision model that is loaded by its name."""
    path = tmp_path_factory.mktemp("tiny-vit")
    tiny.model("vit").save_pretrained(path)
    tiny.image_processor().save_pretrained(path)
    return str(path)


def l2p(kind: str, **changes) -> PromptPoolClassifier:
    options = {"options": L2P_OPTIONS, "train": TRAIN, "device": "cpu", **changes}
    return PromptPoolClassifier(**{"method": "l2p", "backbone": tiny.backbone(kind), **options})


def task(kind: str, number: int, n: int = 16):
    """Return inputs of a task, and words as labels that its inputs have to do with."""
    x, y = tiny.raw(kind, n, seed=number), np.array(WORDS[number])[np.arange(n) % 2]
    if kind in tiny.VISION:
        x[y == WORDS[number][0], :5] //= 8
        return x, y
    return [f"{label} {text}" for label, text in zip(y, x, strict=True)], y


def learner(kind: str, method=None, **options) -> cpool.Learner:
    with seeded(0, "build"):
        model = (method or L2P(**L2P_OPTIONS)).build(tiny.backbone(kind))
    return cpool.Learner(model, seed=0, device="cpu", quiet=True, **{**TRAIN, **options})


@pytest.mark.parametrize(
    ("method", "options", "train", "expected"),
    [
        ("ncm", None, None, {}),
        pytest.param(
            "l2p",
            L2P_OPTIONS,
            {"epochs": 1, "lr": 0.1},
            {
                "check_fit2d_1sample": "one sample has one class, which a method that trains "
                "refuses in cpool's words: at least two classes a task"
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_checks_of_scikit_learn(folder, monkeypatch, method, options, train, expected):
    # Some hundred fits, each of which would load the same folder.
    monkeypatch.setattr("cpool.interop.sklearn.classifier.load_backbone", cache(load_backbone))
    estimator = PromptPoolClassifier(method, folder, options=options, train=train, device="cpu")
    results = check_estimator(
        estimator, on_fail=None, on_skip=None, expected_failed_checks=expected
    )
    assert len(results) > 50
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(expected)
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}  # for want of SCIPY_ARRAY_API


# ---- what a Learner learns ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "bert", "llama"])
def test_fit_is_fit_task(kind):
    x, y = task(kind, 0)
    model = l2p(kind).fit(x, y)
    other = learner(kind)
    other.fit_task((x, (y == "tree").astype(int)))
    assert model.classes_.tolist() == ["cat", "tree"]
    answer, expected = model.explain(x), other.explain(x)
    assert np.array_equal(model.predict_proba(x), expected.probabilities)
    assert np.array_equal(model.predict(x), model.classes_[expected.labels])
    assert np.array_equal(answer.labels, expected.labels)
    assert {*answer.slots} == {*expected.slots} != set()
    assert all(np.array_equal(answer.slots[key], expected.slots[key]) for key in answer.slots)
    assert model.score(x, y) == np.mean(model.predict(x) == y) > 0.6


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_partial_fit_is_a_stream(kind):
    model, other, inputs = l2p(kind), learner(kind), []
    for number in range(2):
        x, y = task(kind, number)
        inputs.append(x)
        assert model.partial_fit(x, y) is model
        other.fit_task((x, 2 * number + (y == max(WORDS[number])).astype(int)))
    assert model.tasks_ == [["cat", "tree"], ["dog", "river"]]
    assert model.classes_.tolist() == ["cat", "dog", "river", "tree"]
    for x in inputs:
        expected = other.predict_proba(x)  # cat, tree, dog, river
        assert np.array_equal(model.predict_proba(x), expected[:, [0, 2, 3, 1]])
        names = np.array(["cat", "tree", "dog", "river"])
        assert np.array_equal(model.predict(x), names[other.predict(x)])


def test_classes_come_again():
    model, other = l2p("vit"), learner("vit")
    for number in range(2):
        x, _ = task("vit", number)
        y = np.arange(len(x)) % (2 + number)  # 0 and 1; then 0, 1 and 2
        model.partial_fit(x, y)
        other.fit_task((x, y))
        assert model.classes_.tolist() == [*range(2 + number)]
        assert np.array_equal(model.predict_proba(x), other.predict_proba(x))
    assert model.tasks_ == [[0, 1], [0, 1, 2]]


def test_classes_named_at_first_have_columns_from_the_start():
    model, (x, y) = l2p("vit"), task("vit", 0)
    model.partial_fit(x, y, classes=["tree", "river", "dog", "cat"])
    assert model.classes_.tolist() == ["cat", "dog", "river", "tree"]
    shown = model.predict_proba(x)
    assert (shown[:, [1, 2]] == 0).all()
    assert (shown[:, [0, 3]] > 0).all()
    np.testing.assert_allclose(shown.sum(1), 1, rtol=1e-5)
    # The same numbers as the learner's, had it been told all classes: cat 0, dog 1, …
    other = learner("vit")
    other.fit_task((x, np.where(y == "cat", 0, 3)))
    assert np.array_equal(shown[:, [0, 3]], other.predict_proba(x))
    model.partial_fit(*task("vit", 1))
    assert (model.predict_proba(x) > 0).all()


def test_the_seed_decides():
    x, y = task("vit", 0)
    first, again = (l2p("vit", random_state=3).fit(x, y).predict_proba(x) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, l2p("vit", random_state=4).fit(x, y).predict_proba(x))
    states = [l2p("vit", random_state=np.random.RandomState(7)).fit(x, y) for _ in range(2)]
    assert states[0].learner_.seed == states[1].learner_.seed


@pytest.mark.parametrize("labels", [[3, 1], [True, False], ["b", "a"], np.array(["x", "y"], "O")])
def test_labels_of_any_kind_come_back(labels):
    x, _ = task("bert", 0)
    y = np.asarray(labels)[np.arange(len(x)) % 2]
    model = PromptPoolClassifier("ncm", tiny.backbone("bert")).fit(pd.Series(x), pd.Series(y))
    assert model.classes_.tolist() == sorted(labels)
    assert model.predict(np.array(x)).dtype.kind == model.classes_.dtype.kind
    assert model.score(x, y) > 0.7


def test_a_language_model_scores_what_the_classes_are_called():
    method = PromptTuning(length=2)
    model = PromptPoolClassifier(method, tiny.backbone("gpt2"), train=TRAIN, device="cpu")
    other = learner("gpt2", method)
    other.model.name_classes(["cat", "tree", "dog", "river"])
    for number in range(2):
        x, y = task("gpt2", number)
        model.partial_fit(x, y)
        other.fit_task((x, 2 * number + (y == max(WORDS[number])).astype(int)))
    assert np.array_equal(model.predict_proba(x), other.predict_proba(x)[:, [0, 2, 3, 1]])
    named = PromptPoolClassifier(PromptTuning(labels=("dog", "cat")), tiny.backbone("gpt2"))
    with pytest.raises(ConfigError, match="Name all classes, sorted as the words are"):
        named.partial_fit(x, y)


# ---- rows of pixels -----------------------------------------------------------------------------


def test_rows_are_images_scaled_by_the_first_call():
    rows, y = load_digits(return_X_y=True)
    first, later = rows[:80], rows[80:120] * 1.5
    one = l2p("vit", train={"epochs": 1}).fit(first, y[:80])
    assert one.n_features_in_ == 64
    images = (first / 16).astype(np.float32).reshape(-1, 8, 8)
    two = l2p("vit", train={"epochs": 1}).fit(images, y[:80])
    assert not hasattr(two, "n_features_in_")
    assert np.array_equal(one.predict_proba(first), two.predict_proba(images))
    clipped = np.clip(later / 16, 0, 1).astype(np.float32).reshape(-1, 8, 8)
    assert (later > 16).any()
    assert np.array_equal(one.predict_proba(later), two.predict_proba(clipped))
    # Rows of bytes are pixels as they are, and floats later have the range of bytes.
    whole = (first * 10).astype(np.uint8)
    for model in (one, two):
        model.set_params(method="ncm", options=None)
    one.fit(whole, y[:80])
    two.fit(whole.reshape(-1, 8, 8), y[:80])
    assert np.array_equal(one.predict_proba(whole), two.predict_proba(whole.reshape(-1, 8, 8)))
    scaled = one.predict_proba(whole.astype(float))
    np.testing.assert_allclose(scaled, one.predict_proba(whole), atol=0.02)


@pytest.mark.parametrize(
    ("pixels", "image_shape", "expected"),
    [(12, None, (1, 12)), (12, (3, 4), (3, 4)), (12, (2, 2, 3), (2, 2, 3)), (16, None, (4, 4))],
)
def test_rows_take_the_shape_of_an_image(pixels, image_shape, expected):
    x = np.random.default_rng(0).integers(0, 256, (12, pixels), dtype=np.uint8)
    y = np.arange(12) % 2
    rows = PromptPoolClassifier("ncm", tiny.backbone("vit"), image_shape=image_shape).fit(x, y)
    images = PromptPoolClassifier("ncm", tiny.backbone("vit")).fit(x.reshape(-1, *expected), y)
    shown = images.predict_proba(x.reshape(-1, *expected))
    assert np.array_equal(rows.predict_proba(x), shown)


def test_names_of_columns_are_kept():
    rows, y = load_digits(return_X_y=True, as_frame=True)
    model = PromptPoolClassifier("ncm", tiny.backbone("vit")).fit(rows[:50], y[:50])
    assert model.feature_names_in_.tolist() == rows.columns.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(rows[rows.columns[::-1]])
    model.fit(*task("vit", 0))
    assert not hasattr(model, "feature_names_in_")


# ---- tools of scikit-learn ----------------------------------------------------------------------


def test_search_pipelines_and_cross_validation():
    rows, y = (part[:60] for part in load_digits(return_X_y=True))
    model = l2p("vit", train={"epochs": 1})
    grid = {"train": [{"epochs": 1, "lr": 1e-6}, {"epochs": 12, "lr": 0.1}]}
    search = GridSearchCV(model, grid | {"options": [L2P_OPTIONS]}, cv=2).fit(rows, y)
    assert search.best_params_["train"] == grid["train"][1]
    assert search.best_score_ > 0.2
    assert search.best_estimator_.learner_.train.epochs == 12
    piped = make_pipeline(MinMaxScaler(), clone(model).set_params(method="ncm", options=None))
    scores = cross_val_score(piped, rows, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.4
    texts, labels = task("bert", 0)
    scores = cross_val_score(PromptPoolClassifier("ncm", tiny.backbone("bert")), texts, labels)
    assert scores.mean() > 0.6


def test_a_clone_shares_the_backbone_and_nothing_learned():
    model = l2p("vit").fit(*task("vit", 0))
    other = clone(model)
    assert other.backbone is model.backbone
    assert other.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        _ = other.tasks_


# ---- storing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_a_pickle_predicts_and_learns_on(named, folder, tmp_path):
    model = l2p("vit", backbone=folder) if named else l2p("vit")
    model.partial_fit(*task("vit", 0))
    joblib.dump(model, tmp_path / "model")
    weights = sum(p.numel() * 4 for p in model.learner_.model.backbone.parameters())
    assert ((tmp_path / "model").stat().st_size < weights) == named
    model.set_params(method="ncm")  # what was fitted stays what it is
    for again in (joblib.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        x, y = task("vit", 1)
        assert np.array_equal(again.predict_proba(x), model.predict_proba(x))
        if not named:
            assert again.backbone is again.learner_.model.backbone
            assert again.backbone.fingerprint == model.backbone.fingerprint
        assert again.learner_.done == ["task 0"]
    new = pickle.loads(pickle.dumps(clone(model)))
    assert not hasattr(new, "learner_")
    model.partial_fit(x, y)
    again.partial_fit(x, y)
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))


def test_a_pickled_language_model_scores_the_same_words():
    x, y = task("gpt2", 0)
    options = {"options": {"length": 2}, "train": TRAIN, "device": "cpu"}
    model = PromptPoolClassifier("prompt_tuning", tiny.backbone("gpt2"), **options).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"method": "l2q"}, UnknownNameError, "'l2p'"),
        ({"options": {"topk": 1}}, ConfigError, "'top_k'"),
        ({"options": 3}, ConfigError, "options as a dictionary"),
        ({"method": L2P()}, ConfigError, "beside the name of a method"),
        ({"train": {"seed": 1}}, ConfigError, "a training setting"),
        ({"backbone": 5}, ConfigError, "wrap_model"),
        ({"image_shape": (3, 3)}, ConfigError, r"image_shape .* of 16 values"),
        ({"image_shape": 16}, ConfigError, r"image_shape .* of 16 values"),
    ],
)
def test_settings_are_checked_by_fit(changes, error, match):
    model = l2p("vit", **changes)
    with pytest.raises(error, match=match):
        model.fit(np.eye(16), np.arange(16) % 2)
    assert not hasattr(model, "learner_")


IMAGES = tiny.raw("vit", 8)
Y = np.arange(8) % 2


@pytest.mark.parametrize(
    ("kind", "x", "y", "match"),
    [
        ("vit", tiny.raw("bert", 8), Y, "images, since the backbone is a vision model"),
        ("vit", [IMAGES[0], IMAGES[0, :4]] * 4, Y, "images of one size"),
        ("vit", IMAGES.astype(float), Y, "floats from 0 to 1; got float64 from 0 to 255"),
        ("vit", IMAGES.astype(int), Y, "uint8 .* got int64"),
        ("vit", IMAGES.transpose(0, 3, 1, 2), Y, "channel axis to the end"),
        ("vit", np.full((8, 4, 4), np.nan), Y, "contains NaN"),
        ("vit", IMAGES, Y[:5], "inconsistent numbers of samples"),
        ("vit", IMAGES, Y + 0.5, "Unknown label type"),
        ("vit", IMAGES, None, "y should be a 1d array"),
        ("vit", IMAGES, np.zeros(8, int), "at least two classes"),
        ("bert", ["a", ""] * 4, Y, "non-empty texts"),
        ("bert", [3] * 8, Y, "non-empty texts"),
        ("bert", "a text", Y, "Put a single text into a list"),
        ("bert", np.eye(8), Y, "one column"),
    ],
)
def test_bad_data_is_refused_and_changes_nothing(kind, x, y, match):
    model, good = l2p(kind), task(kind, 0)
    with pytest.raises(ValueError, match=match):
        model.fit(x, y)
    assert not hasattr(model, "learner_")
    model.fit(*good)
    before = model.predict_proba(good[0])
    if y is not None and y.dtype == int:
        y = np.array(["cat", "tree"])[y]
    with pytest.raises(ValueError, match=match):
        model.partial_fit(x, y)
    assert np.array_equal(model.predict_proba(good[0]), before)


def test_what_was_refused_leaves_no_trace():
    (x, y), plain = task("vit", 0), l2p("vit").fit(*task("vit", 0))
    model = l2p("vit").fit(x, y)
    with pytest.raises(DataError, match="at least two classes"):
        model.partial_fit(x, ["river"] * len(x))
    with pytest.raises(DataError, match="labels of one kind, such as 'cat', 'tree'; got 1, 2"):
        model.partial_fit(x, np.arange(len(x)) % 2 + 1)
    with pytest.raises(DataError, match="labels of the classes 'cat', 'dog'; got 'river'"):
        model.partial_fit(*task("vit", 1), classes=["cat", "dog"])
    with pytest.raises(DataError, match="images, as at the first call; got rows"):
        model.partial_fit(x.reshape(len(x), -1), y)
    assert model.classes_.tolist() == ["cat", "tree"]
    for one in (model, plain):
        one.partial_fit(*task("vit", 1))
    assert np.array_equal(model.predict_proba(x), plain.predict_proba(x))


def test_classes_of_the_first_call_stay():
    x, y = task("vit", 0)
    with pytest.raises(DataError, match="labels of the classes 'cat', 'dog'; got 'tree'"):
        l2p("vit").partial_fit(x, y, classes=["cat", "dog"])
    model = l2p("vit").partial_fit(x, y, classes=["cat", "dog", "tree"])
    with pytest.raises(DataError, match="classes as at the first call, 'cat', 'dog', 'tree'"):
        model.partial_fit(x, y, classes=["cat", "tree"])
    with pytest.raises(DataError, match="got 'river'"):
        model.partial_fit(*task("vit", 1))


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("joint", {"of": "linear_head"}, "Call fit with all data"),
        ("progressive_prompts", {"length": 2}, "predict.X. tells nothing"),
    ],
)
def test_a_second_task_that_makes_no_sense(method, options, match):
    model = PromptPoolClassifier(method, tiny.backbone("vit"), options=options, train={"epochs": 1})
    model.fit(*task("vit", 0))
    with pytest.raises(ConfigError, match=match):
        model.partial_fit(*task("vit", 1))
    assert model.tasks_ == [["cat", "tree"]]


def test_an_error_amid_a_task_is_told():
    x, y = task("vit", 0)
    model = l2p("vit").fit(x, y)
    before = model.predict_proba(x)
    model.set_params(train={**TRAIN, "lr": 1e30, "clip_norm": 0.0})
    with pytest.raises(DataError, match="a finite loss"):
        model.fit(x, y)
    assert np.array_equal(model.predict_proba(x), before)  # the old model is still there
    model.learner_.train = model.learner_.train.but(lr=1e30, clip_norm=0.0)
    with pytest.raises(DataError, match="a finite loss"):
        model.partial_fit(*task("vit", 1))
    with pytest.raises(StateError, match="which an error has interrupted"):
        model.predict(x)
    assert model.set_params(train=TRAIN).fit(x, y).score(x, y) > 0.7
