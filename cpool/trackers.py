"""Trackers: where a run's numbers go while it learns, through accelerate's tracker classes.

accelerate itself keeps one list of trackers a process; here each run opens its own and closes them.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpool.errors import ConfigError, MissingDependencyError, StateError, unknown

__all__ = ["AXES", "KNOWN", "Trackers", "check_trackers"]

KNOWN = ("mlflow", "tensorboard", "wandb")
# What the numbers of a learner are counted by: the epochs, and the tasks, that it has learned.
AXES = {"train": "epoch", "seconds": "task", "slots": "task", "test": "task"}


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of trackers that are known and installed.

    Raises:
        UnknownNameError: an unknown name.
        ConfigError: one text in the place of a list, or a name twice.
        MissingDependencyError: a package that is not installed.

    >>> check_trackers([])
    ()
    """
    if isinstance(names, str) or len(set(names)) != len(names):
        raise ConfigError(
            expected='a list of different trackers, such as ["tensorboard"]',
            got=repr(names),
            remedy="Name each once, in a list.",
        )
    for name in names:
        if name not in KNOWN:
            raise unknown("tracker", name, KNOWN)
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                expected=f"the package {name}, for the tracker {name!r}",
                got="none",
                remedy=f"Install it with: pip install {name}",
            )
    return tuple(names)


class Trackers:
    """The trackers of one run: opened when it begins, closed when it ends, and then openable again.

    - "tensorboard" writes event files to `folder`/tensorboard/RUN.
    - "wandb" follows wandb's own settings: `WANDB_MODE=offline` keeps all in `folder`/wandb.
    - "mlflow" writes to `folder`/mlflow.db, unless mlflow was told where to
      (`MLFLOW_TRACKING_URI`); it has one run a process at a time.

    Args:
        names: some of `KNOWN`; with none of them nothing is ever done.
        folder: of all files, made when a run is opened.
        project: of wandb; the experiment of mlflow.
        label: what the runs are called, beside their seed; None: the name of the method.

    Raises:
        ConfigError, MissingDependencyError: as `check_trackers`.

    >>> trackers = Trackers()
    >>> trackers.open("l2p-seed0", {"lr": 0.03})
    >>> trackers.log("train", {"loss": 0.5}, at=1)
    >>> trackers.close()
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        folder: Path | str = "tracking",
        *,
        project: str = "cpool",
        label: str | None = None,
    ) -> None:
        self.names, self.folder = check_trackers(names), Path(folder)
        self.project, self.label = project, label
        self._open: list[Any] = []
        self._after = contextlib.ExitStack()

    @property
    def is_open(self) -> bool:
        """Whether a run is open."""
        return bool(self._open)

    def open(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run in all trackers; nothing happens while one is open.

        Args:
            run: its name.
            settings: its configuration; tables in it become dotted keys.

        Raises:
            StateError: mlflow has another run open.
            ConfigError: a tracker that does not start; none of them is open then.
        """
        if self._open:
            return
        flat = _flat(settings)
        for name in self.names:
            try:
                self._open.append(self._started(name, run, flat))
            except StateError:
                self.close()
                raise
            except Exception as error:  # of whatever kind the tracker raises
                self.close()
                raise ConfigError(
                    expected=f"the tracker {name!r} to start",
                    got=f"{type(error).__name__}: {error}",
                    remedy=_REMEDIES[name].format(folder=self.folder),
                ) from error

    def log(self, part: str, values: Mapping[str, float | None], at: int) -> None:
        """Write numbers to all trackers.

        Args:
            part: one of `AXES`; it stands in front of the names, and says what `at` counts.
            values: by name; None, which was not measured, is left out.
            at: the number of epochs or tasks learned.
        """
        axis = AXES[part]
        kept = {f"{part}/{name}": value for name, value in values.items() if value is not None}
        for tracker in self._open:
            if tracker.name == "wandb":
                # It drops what comes with a step before the last one.
                tracker.log({**kept, axis: at})
            else:
                tracker.log(kept, step=at)

    def close(self) -> None:
        """End the run in all trackers."""
        opened, self._open = self._open, []
        with self._after:  # also when one of them fails
            for tracker in opened:
                tracker.finish()

    def _started(self, name: str, run: str, settings: dict[str, Any]) -> Any:
        from accelerate import tracking

        self.folder.mkdir(parents=True, exist_ok=True)
        if name == "tensorboard":
            made = tracking.TensorBoardTracker(run, logging_dir=self.folder / "tensorboard")
        elif name == "wandb":
            # By itself accelerate's class ends the run before, and configures the last one made.
            made = tracking.WandBTracker(
                self.project, name=run, dir=str(self.folder), config=settings, reinit="create_new"
            )
        else:
            _check_mlflow()
            self._after.enter_context(_mlflow_in(self.folder))
            made = tracking.MLflowTracker(
                self.project, logging_dir=_artifacts(self.folder), run_name=run
            )
        made.start()
        if name == "wandb":
            for part, axis in AXES.items():
                made.tracker.define_metric(f"{part}/*", step_metric=axis)
        else:
            made.store_init_configuration(settings)
        return made


_REMEDIES = {
    "tensorboard": "Choose a folder that can be written, instead of {folder}.",
    "wandb": "Log in with `wandb login`, or set WANDB_MODE=offline to keep the run in {folder}.",
    "mlflow": "Set MLFLOW_TRACKING_URI to a store that works, or unset it to use one in {folder}.",
}


def _check_mlflow() -> None:
    mlflow: Any = importlib.import_module("mlflow")  # typed in part

    active = mlflow.active_run()
    if active is not None:
        raise StateError(
            expected="no open run of mlflow, which has one a process at a time",
            got=f"{active.info.run_name!r}",
            remedy="Call trackers.close() of the other learner, or mlflow.end_run().",
        )


@contextlib.contextmanager
def _mlflow_in(folder: Path) -> Any:
    """Let mlflow write to a store in the folder, unless somebody chose another one."""
    mlflow: Any = importlib.import_module("mlflow")  # typed in part

    if mlflow.is_tracking_uri_set():
        yield
        return
    mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)


def _artifacts(folder: Path) -> str | None:
    """Return where files of runs in our own store go; another store has a place of its own."""
    mlflow: Any = importlib.import_module("mlflow")  # typed in part

    own = mlflow.get_tracking_uri().endswith((folder / "mlflow.db").resolve().as_posix())
    return (folder / "mlflow").resolve().as_uri() if own else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings as trackers take them: dotted keys, and texts in the place of lists.

    >>> _flat({"train": {"lr": 0.1}, "layers": (0, 1)})
    {'train.lr': 0.1, 'layers': '[0, 1]'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= _flat(value, dotted)
        elif value is None or isinstance(value, bool | int | float | str):
            flat[dotted] = value
        else:
            flat[dotted] = str(list(value) if isinstance(value, tuple) else value)
    return flat
