"""The exceptions of cpool: one tree, and every message says expected, got and remedy.

```
CpoolError
├── ConfigError (ValueError)        a setting that does not exist, or has a wrong type or value
│   └── UnknownNameError            a method, backbone, stream, policy or key that nobody registered
├── DataError (ValueError)          inputs, labels or files of a wrong kind
├── BackboneError (ValueError)      a model that cannot carry what is asked of it
├── PoolError (ValueError)          slots, blocks and selections that do not fit the pool
├── MetricError (ValueError)        a matrix that does not allow the metric
├── StateError (RuntimeError)       calls in an order that makes no sense
├── CheckpointError (RuntimeError)  files that are altered, missing or of another model
└── MissingDependencyError (ImportError)  an extra that is not installed
```
"""

import difflib
import importlib.util
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "CheckpointError",
    "ConfigError",
    "CpoolError",
    "DataError",
    "MetricError",
    "MissingDependencyError",
    "PoolError",
    "StateError",
    "UnknownNameError",
    "missing_extra",
    "nearest",
    "need_extra",
    "unknown",
]


class CpoolError(Exception):
    """Base of everything that cpool raises on purpose.

    Args:
        expected: what would have been right.
        got: what came instead.
        remedy: what to do about it, a whole sentence.

    >>> print(DataError(expected="labels of type int64", got="float32", remedy="Cast them."))
    expected labels of type int64; got float32. Cast them.
    """

    def __init__(self, *, expected: str, got: str, remedy: str) -> None:
        self.expected, self.got, self.remedy = expected, got, remedy
        super().__init__(f"expected {expected}; got {got}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (data loader workers), which call cls(*args) by default.
        return _rebuild, (type(self), self.expected, self.got, self.remedy)


def _rebuild(cls: type[CpoolError], expected: str, got: str, remedy: str) -> CpoolError:
    return cls(expected=expected, got=got, remedy=remedy)


class ConfigError(CpoolError, ValueError):
    """A setting that does not exist, or has a wrong type or value."""


class UnknownNameError(ConfigError):
    """A name that nobody registered; `nearest` in the message names the closest one."""


class DataError(CpoolError, ValueError):
    """Inputs, labels or files of a wrong kind."""


class BackboneError(CpoolError, ValueError):
    """A model that cannot carry what is asked of it."""


class PoolError(CpoolError, ValueError):
    """Slots, blocks and selections that do not fit the pool."""


class MetricError(CpoolError, ValueError):
    """A matrix that does not allow the metric."""


class StateError(CpoolError, RuntimeError):
    """Calls in an order that makes no sense, such as `predict` before `fit_task`."""


class CheckpointError(CpoolError, RuntimeError):
    """Files that are altered, missing, of a newer schema or of another model."""


class MissingDependencyError(CpoolError, ImportError):
    """An extra that is not installed."""


def need_extra(extra: str, *modules: str) -> None:
    """Refuse to go on without the packages of an extra.

    Args:
        extra: its name.
        modules: that are imported from it; the one of the extra's name by default.

    Raises:
        MissingDependencyError: one is not installed; the message has the command that installs it.
    """
    for module in modules or (extra,):
        if importlib.util.find_spec(module) is None:
            raise missing_extra(extra, module)


def missing_extra(extra: str, module: str | None = None) -> MissingDependencyError:
    """Build the error for a module of an extra, that of its name by default.

    >>> print(missing_extra("ray"))
    expected the package ray; got none. Install it with: pip install 'continual-prompt-pool[ray]'
    """
    return MissingDependencyError(
        expected=f"the package {module or extra}",
        got="none",
        remedy=f"Install it with: pip install 'continual-prompt-pool[{extra}]'",
    )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None when none is close.

    >>> nearest("dual_promt", ["l2p", "dualprompt"])
    'dualprompt'
    """
    known = sorted(names)
    folded = {n.replace("_", "").replace("-", "").lower(): n for n in known}
    matches = difflib.get_close_matches(name.replace("_", "").replace("-", "").lower(), folded, n=1)
    return folded[matches[0]] if matches else None


def unknown(kind: str, name: str, names: Iterable[str]) -> UnknownNameError:
    """Build the error for a `name` of a `kind` ("method", "stream", …) that is not in `names`.

    >>> print(unknown("method", "l2q", ["l2p", "ncm"]))
    expected a known method (l2p, ncm); got 'l2q'. Did you mean 'l2p'?
    """
    known = sorted(names)
    close = nearest(name, known)
    remedy = f"Did you mean {close!r}?" if close else f"Choose one of them as the {kind}."
    return UnknownNameError(
        expected=f"a known {kind} ({', '.join(known)})", got=repr(name), remedy=remedy
    )
