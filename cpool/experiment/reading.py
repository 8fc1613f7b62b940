"""Reading an experiment file: TOML, changed by the command line, checked key by key."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpool.errors import ConfigError, UnknownNameError, unknown
from cpool.experiment.checking import check_section, in_file
from cpool.experiment.config import Experiment
from cpool.experiment.overrides import apply_override
from cpool.experiment.plan import read_plan
from cpool.experiment.rows import name_of, read_rows
from cpool.experiment.schema import BackboneSection, Top, Train, stream_section
from cpool.trackers import KNOWN

__all__ = ["read_experiment"]


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
    for name in top.trackers:
        if name not in KNOWN:
            raise unknown("tracker", name, KNOWN)
    backbone = check_section(BackboneSection, top.backbone, "backbone", source)
    kind = stream_section(name_of(top.stream, "stream", source))
    stream = check_section(kind, top.stream, "stream", source)
    train = check_section(Train, top.train, "train", source).model_dump(exclude_unset=True)
    options = {k: v for k, v in stream.model_dump().items() if k != "seed" or k in top.stream}
    plan = None if top.search is None else read_plan(top.search, options, kind, source)
    methods = read_rows(top.method, train, plan, top.not_run, source)
    return Experiment(
        name=top.name or stem,
        description=top.description,
        seeds=tuple(top.seeds),
        threads=top.threads,
        evaluate=top.evaluate,
        backbone=backbone.model_dump(),
        stream=options,
        train=train,
        methods=methods,
        precision=top.precision,
        trackers=tuple(top.trackers),
        search=plan,
        not_run=top.not_run,
        source=source,
    )
