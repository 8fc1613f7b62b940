"""What an estimator is given, checked when it is fitted, as scikit-learn wants it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from cpool.errors import ConfigError
from cpool.methods import Method

__all__ = ["check_names", "check_next", "mapping", "name_of", "seed_of"]


def seed_of(random_state: Any) -> int:
    """Return a seed: a whole number as it is, else drawn as elsewhere in scikit-learn."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return a dictionary of changes, empty for None; refuse anything else."""
    if value is None or isinstance(value, Mapping):
        return value or {}
    raise ConfigError(
        expected=f"{name} as a dictionary, or None",
        got=repr(value),
        remedy="Name what shall differ from the defaults: {name: value}.",
    )


def name_of(backbone: Any) -> str | Path:
    """Return the name of a backbone that shall be loaded; refuse anything else."""
    if isinstance(backbone, str | Path):
        return backbone
    raise ConfigError(
        expected="backbone as a name or folder, or a Backbone",
        got=type(backbone).__name__,
        remedy="Wrap a model that is loaded: cpool.wrap_model(model, processor).",
    )


def check_names(method: Method, classes: Any) -> None:
    """Refuse words for class number 0, 1, … where nobody knows yet which number a class gets."""
    if classes is None and getattr(method, "labels", None) is not None:
        raise ConfigError(
            expected="classes at the first partial_fit, since the method says what they are called",
            got=f"labels={vars(method)['labels']!r} and no classes",
            remedy="Name all classes, sorted as the words are, or leave the option labels out.",
        )


def check_next(method: Method) -> None:
    """Refuse a second task where there can be none, or where nobody could tell them apart."""
    if method.joint:
        raise ConfigError(
            expected="a method that learns task after task",
            got=f"{method.name!r}, which sees the data of all tasks at once",
            remedy="Call fit with all data, or choose another method.",
        )
    if method.needs_task:
        raise ConfigError(
            expected="a method that finds the task of an input by itself",
            got=f"{method.name!r}, which has to be told, and predict(X) tells nothing",
            remedy="Choose another method or option, or use cpool.Learner and its predictor.",
        )
