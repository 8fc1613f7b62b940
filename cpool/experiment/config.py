"""Experiment: a TOML file, checked and resolved."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpool.errors import ConfigError, CpoolError, UnknownNameError
from cpool.experiment.checking import check_section, in_file
from cpool.experiment.overrides import apply_override
from cpool.experiment.schema import (
    BackboneSection,
    Top,
    Train,
    method_section,
    stream_section,
)
from cpool.methods import Method, method_from
from cpool.settings import TrainSettings

__all__ = ["Experiment", "MethodEntry", "read_experiment"]


@dataclass(frozen=True)
class MethodEntry:
    """One row of the experiment.

    Attributes:
        label: unique name of the row.
        method: with its hyper-parameters.
        train: the method's own settings, changed by `[train]`, changed by `[method.train]`.
    """

    label: str
    method: Method
    train: TrainSettings


@dataclass(frozen=True)
class Experiment:
    """What a file asks for, all of it resolved.

    Attributes:
        name, description: for people; the name is the default output folder.
        seeds: one run a method and seed.
        threads: of torch; None leaves them as they are.
        evaluate: the split that accuracies are measured on.
        backbone: arguments of `load_backbone`.
        stream: name and options; without "seed" each run's own seed orders the classes.
        train: `[train]` as given.
        methods: in the order of the file.
        source: the file.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    threads: int | None
    evaluate: str
    backbone: Mapping[str, Any]
    stream: Mapping[str, Any]
    train: Mapping[str, Any]
    methods: tuple[MethodEntry, ...]
    source: str = field(default="", compare=False)

    def resolved(self) -> dict[str, Any]:
        """Return the content of config.toml: all values, as a file that gives the same again."""
        methods = [
            {
                "name": entry.method.name,
                "label": entry.label,
                **entry.method.hyper_parameters(),
                "train": dict(entry.train.__dict__),
            }
            for entry in self.methods
        ]
        top = {
            "name": self.name,
            "description": self.description,
            "seeds": list(self.seeds),
            "threads": self.threads,
            "evaluate": self.evaluate,
            "backbone": dict(self.backbone),
            "stream": dict(self.stream),
            "train": dict(self.train),
            "method": methods,
        }
        cleaned: dict[str, Any] = _plain(top)
        return cleaned


def _plain(value: Any) -> Any:
    """Return `value` as TOML holds it: no None, lists instead of tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def read_experiment(
    path: Path | str, sets: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> Experiment:
    """Read an experiment file, change it as asked, and check every key and type.

    Args:
        path: the TOML file.
        sets: changes, each "dotted.key=value".
        seeds: seeds instead of those of the file.

    Raises:
        ConfigError: no such file, broken TOML, unknown or missing keys, wrong types or values.
    """
    path = Path(path)
    raw = _load(path)
    if isinstance(raw.get("method"), dict) and "name" in raw["method"]:
        raw["method"] = [raw["method"]]  # [method] for [[method]], where there is just one
    for change in sets:
        apply_override(raw, change)
    if seeds is not None:
        raw["seeds"] = list(seeds)
    source = f"{path} with --set {' --set '.join(sets)}" if sets else str(path)
    try:
        return _resolve(raw, path.stem, source)
    except UnknownNameError as error:
        raise in_file(error, source) from None


def _load(path: Path) -> dict[str, Any]:
    remedy = "Check the path; benchmarks/experiments holds examples."
    if path.is_dir():
        remedy = f"Name the file, such as {path / 'config.toml'}."
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        lines = text.splitlines() or [""]
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}, the end"
        got = f"{path}: {error}".replace("at end of document", end)
        remedy = "Correct the line; texts need quotes in TOML."
    except UnicodeDecodeError as error:
        got, remedy = f"{path}: {error}", "Save the file as UTF-8."
    except OSError as error:
        got = f"{path}: {error.strerror or error}"
    raise ConfigError(expected="an experiment file in TOML", got=got, remedy=remedy)


def _resolve(raw: dict[str, Any], stem: str, source: str) -> Experiment:
    top = check_section(Top, raw, "", source)
    if len(set(top.seeds)) != len(top.seeds):
        raise ConfigError(
            expected="different seeds", got=f"{top.seeds} in {source}", remedy="Name each once."
        )
    backbone = check_section(BackboneSection, top.backbone, "backbone", source)
    kind = stream_section(_name(top.stream, "stream", source))
    stream = check_section(kind, top.stream, "stream", source)
    train = check_section(Train, top.train, "train", source).model_dump(exclude_unset=True)
    return Experiment(
        name=top.name or stem,
        description=top.description,
        seeds=tuple(top.seeds),
        threads=top.threads,
        evaluate=top.evaluate,
        backbone=backbone.model_dump(),
        stream={k: v for k, v in stream.model_dump().items() if k != "seed" or k in top.stream},
        train=train,
        methods=_methods(top.method, train, source),
        source=source,
    )


def _name(section: Mapping[str, Any], where: str, source: str) -> str:
    name = section.get("name")
    if not isinstance(name, str):
        got = "none" if name is None else repr(name)
        raise ConfigError(
            expected=f"the key '{where}.name', a text", got=got, remedy=f"Correct it in {source}."
        )
    return name


def _methods(
    sections: Sequence[Mapping[str, Any]], train: Mapping[str, Any], source: str
) -> tuple[MethodEntry, ...]:
    entries: list[MethodEntry] = []
    for section in sections:
        name = _name(section, "method", source)
        label = section.get("label", name)
        if label in [entry.label for entry in entries]:
            raise ConfigError(
                expected="a label of its own for each [[method]]",
                got=f"{label!r} twice in {source}",
                remedy=f'Add a line such as label = "{label} (2)" to one of them.'.replace(
                    " (2)", "-2"
                ),
            )
        entries.append(_method(section, name, str(label), train, source))
    return tuple(entries)


def _method(
    section: Mapping[str, Any], name: str, label: str, train: Mapping[str, Any], source: str
) -> MethodEntry:
    of = section.get("of", "fine_tune") if name == "joint" else None
    model = method_section(name, of if isinstance(of, str) else None)
    checked = check_section(model, section, f"method.{label}", source)
    given = checked.model_dump(exclude_unset=True)
    own = {k: v for k, v in given.items() if k not in ("name", "label", "train")}
    try:
        method = method_from(name, own)
        settings = method.settings.but(**train).but(**given.get("train", {}))
    except CpoolError as error:
        raise in_file(error, source, f"the method {label!r}") from None
    return MethodEntry(label, method, settings)
