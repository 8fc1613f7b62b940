"""PromptPoolClassifier: any method of cpool as an estimator of scikit-learn."""

from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from cpool.backbones import Backbone, load_backbone
from cpool.errors import ConfigError, CpoolError, StateError
from cpool.interop.sklearn.checks import (
    check_names,
    check_next,
    mapping,
    name_of,
    seed_of,
)
from cpool.interop.sklearn.inputs import Reader, as_images, as_texts, form_of
from cpool.interop.sklearn.labels import Labels, as_labels
from cpool.interop.sklearn.stored import StoredBackbone, StoredLearner
from cpool.learner import Learner
from cpool.methods import Method, method_from
from cpool.predictor import Prediction
from cpool.seeding import seeded
from cpool.streams.examples import Inputs

__all__ = ["PromptPoolClassifier"]

Array = npt.NDArray[Any]


class PromptPoolClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    """A prompted model on a frozen backbone, with the interface of scikit-learn.

    `fit` learns one task of all classes; each `partial_fit` is the next task of a stream, with new
    classes, with old ones, or with both.

    X is, for a text backbone, a list or a vector of n texts; for a vision backbone

    - images [n H W] or [n H W 3], uint8 or floats in [0, 1];
    - rows [n F] of flattened images, as the data sets of scikit-learn have them. A row becomes an
      image of `image_shape`; by default a square one, or one line of F pixels where F is no square
      number. Rows of type uint8 are pixels as they are. Of all others the smallest value of the
      first call is black and the largest white, for all later calls, too; what lies beyond is
      clipped.

    Rows that are no images (measurements, say) are a picture to the backbone, and an odd one: it
    was never trained on such, columns are neighbours that have nothing in common, and the scale of
    single columns is lost. They are accepted, but another classifier is the better choice.

    Args:
        method: a name of `cpool.METHODS`, or a method.
        backbone: a name as for `load_backbone`, loaded anew by each `fit`, or a backbone, which all
            copies of the estimator share.
        options: hyper-parameters of the method, where it is a name. Where they say what classes
            are called, it is in the order of `classes_`; else y does.
        train: changes of the method's training settings, such as {"lr": 0.01, "epochs": 3}.
        random_state: seed of everything random, a whole number; or as elsewhere in scikit-learn.
        device: "cpu", "cuda", …; what accelerate finds by default.
        image_shape: (H, W) or (H, W, C) of the images in rows.
        quiet: show no progress.

    Attributes:
        classes_: labels, sorted: those seen so far, or all that the first `partial_fit` named.
        learner_: the `cpool.Learner` inside, to save, evaluate or go on with. Its classes are
            numbers, in the order in which labels came.
        n_features_in_: F, where X is rows.
        feature_names_in_: names of the columns, where rows have names.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> model = PromptPoolClassifier(method="ncm").fit(X[:200], y[:200])
        >>> model.score(X[200:400], y[200:400]) > 0.7
        True
    """

    def __init__(
        self,
        method: Any = "l2p",
        backbone: Any = "embedded",
        *,
        options: Any = None,
        train: Any = None,
        random_state: Any = 0,
        device: Any = None,
        image_shape: Any = None,
        quiet: Any = True,
    ) -> None:
        # Kept as they come, for `clone` and `set_params`; `fit` checks them.
        self.method, self.backbone = method, backbone
        self.options, self.train = options, train
        self.random_state, self.device = random_state, device
        self.image_shape, self.quiet = image_shape, quiet

    # ---- learning -----------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> "PromptPoolClassifier":
        """Learn one task of all classes with a new model.

        Args:
            X: n texts, images [n H W] or [n H W 3], or rows [n F].
            y: n labels: strings, whole numbers or truth values.

        Raises:
            ConfigError: a method, option or training setting that does not exist or fit.
            DataError: X of another kind than the backbone reads, or too few classes.
            ValueError: as of scikit-learn: no samples, NaN, y that are no labels.
        """
        return self._first(X, y, None)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "PromptPoolClassifier":
        """Learn the next task of a stream; the first one with a new model.

        Args:
            X: as for `fit`, in the form of the first call.
            y: labels, of classes seen before, new ones, or both.
            classes: labels that may come. At the first call they are all that ever may, and have
                their columns in `predict_proba` from then on; without, columns come with classes.

        Raises:
            ConfigError: as `fit`; or a method that learns one task only, or has to be told the
                task at test.
            DataError: as `fit`; or labels that are not among the classes.
            ValueError: as `fit`.
        """
        if not hasattr(self, "learner_"):
            check_names(self._method(), classes)
            return self._first(X, y, classes)
        check_next(self.learner_.model.method)
        x, y = self._read(X, self._reader), as_labels(y)
        check_consistent_length(x, y)
        self._labels.check(y, classes)
        self._learn(self.learner_, self._labels, x, y)
        return self

    def _first(self, X: Any, y: Any, classes: Any) -> "PromptPoolClassifier":
        method = self._method()
        settings = method.settings.but(**mapping("train", self.train))
        seed = seed_of(self.random_state)
        given = self.backbone
        backbone = given if isinstance(given, Backbone) else load_backbone(name_of(given))
        reader, x = self._settle(X, backbone)
        labels, y = Labels(classes), as_labels(y)
        check_consistent_length(x, y)
        labels.check(y)
        with seeded(seed, "build"):
            model = method.build(backbone)
        learner = Learner(model, settings, seed=seed, device=self.device, quiet=bool(self.quiet))
        self._learn(learner, labels, x, y)
        self.learner_, self._labels, self._reader = learner, labels, reader
        self._named = backbone is not given
        return self

    def _learn(self, learner: Learner, labels: Labels, x: Inputs, y: Array) -> None:
        words = getattr(learner.model.head, "words", None)
        known, names = labels.known, words and words.names
        try:
            numbers = labels.encode(y)
            if words is not None:  # a language model scores what the classes are called
                new = labels.named(range(len(words.names or ()), len(labels)))
                words.more([str(label) for label in new])
            learner.fit_task((x, numbers))
        except CpoolError:
            if len(learner.model.tasks) == len(learner.done):  # refused, and nothing has changed
                labels.known = known
                if words is not None:
                    words.names = names
            raise
        self.classes_ = labels.columns(learner.classes)

    def _method(self) -> Method:
        options = mapping("options", self.options)
        if not isinstance(self.method, Method):
            return method_from(str(self.method), options)
        if options:
            raise ConfigError(
                expected="options beside the name of a method only",
                got=f"{dict(options)} beside {self.method}",
                remedy="Put them into the method, or pass its name.",
            )
        return self.method

    # ---- inputs -------------------------------------------------------------------------------

    def _settle(self, X: Any, backbone: Backbone) -> tuple[Reader, Inputs]:
        """Return how X is read from now on, and the inputs that it holds."""
        form = form_of(X, backbone.kind)
        if form == "rows":
            rows = validate_data(self, X)
            reader = Reader.of_rows(rows, self.image_shape)
            return reader, reader.rows(rows)
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit on rows
            if hasattr(self, name):
                delattr(self, name)
        return Reader(form), as_texts(X) if form == "texts" else as_images(X)

    def _read(self, X: Any, reader: Reader) -> Inputs:
        form = form_of(X, self.learner_.model.backbone.kind)
        reader.check(form)
        if form == "rows":
            return reader.rows(validate_data(self, X, reset=False))
        return as_texts(X) if form == "texts" else as_images(X)

    # ---- predicting ---------------------------------------------------------------------------

    def predict(self, X: Any) -> Array:
        """Return the label of each input, [n]."""
        positions = self.explain(X).labels
        labels: Array = self.classes_[positions]
        return labels

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n C"]:
        """Return the probability of each class, columns as in `classes_`; 0 before it was seen."""
        return self.explain(X).probabilities

    def explain(self, X: Any) -> Prediction:
        """Return what the model says of each input, and the slots that each got.

        `labels` are positions in `classes_`, and `probabilities` have its columns.

        Raises:
            NotFittedError: before the first task was learned.
            StateError: after an error amid the training of a task.
        """
        check_is_fitted(self)
        if len(self.learner_.model.tasks) > len(self.learner_.done):
            raise StateError(
                expected="a model whose tasks have ended",
                got=f"task {len(self.learner_.done)}, which an error has interrupted",
                remedy="Call fit to begin anew, or load an estimator that was stored before.",
            )
        answer = self.learner_.explain(self._read(X, self._reader))
        seen = self._labels.named(self.learner_.classes)
        columns = np.searchsorted(self.classes_, seen)
        probabilities = np.zeros((len(answer.labels), len(self.classes_)), np.float32)
        probabilities[:, columns] = answer.probabilities
        labels = np.searchsorted(self.classes_, self._labels.named(answer.labels))
        return Prediction(labels, probabilities, answer.slots)

    @property
    def tasks_(self) -> list[list[Any]]:
        """The labels of each task, sorted, in the order of learning."""
        check_is_fitted(self)
        tasks = self.learner_.model.tasks
        return [np.sort(self._labels.named(task)).tolist() for task in tasks]

    # ---- conventions of scikit-learn ----------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = tags.input_tags
        inputs.two_d_array = inputs.three_d_array = inputs.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if isinstance(self.backbone, Backbone):
            state["backbone"] = StoredBackbone.of(self.backbone, named=False)
        if "learner_" in state:
            backbone = self.learner_.model.backbone
            # One object twice is stored once.
            same = backbone is self.backbone
            stored = state["backbone"] if same else StoredBackbone.of(backbone, named=self._named)
            state["learner_"] = StoredLearner.of(self.learner_, stored)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if isinstance(state["backbone"], StoredBackbone):
            state["backbone"] = state["backbone"].load()
        if isinstance(state.get("learner_"), StoredLearner):
            options = {"device": state["device"], "quiet": bool(state["quiet"])}
            state["learner_"] = state["learner_"].load(**options)
        super().__setstate__(state)
