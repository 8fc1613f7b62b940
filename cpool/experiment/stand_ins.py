"""What stands in for backbone and data in a dry run: the same forms, without what they hold."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpool.backbones import Backbone
from cpool.backbones.small import small_backbone
from cpool.backbones.small_config import small_config
from cpool.experiment.config import Experiment
from cpool.experiment.stand_in_data import filled, write_data, write_texts
from cpool.experiment.stand_in_folders import A_TASK, image_stand_in, listed, rows_of, strings
from cpool.experiment.stand_in_folders import assumed as assumed_folder
from cpool.streams.registry import STREAMS

__all__ = ["assumed", "stand_in_backbone", "stand_in_options"]

# A class has four rows to learn from, one for validation and one for the test.
_FEW = {"train_per_class": 5, "test_per_class": 1}
_DEPTH = 6  # the deepest layer that a method takes by default (ConvPrompt)


def stand_in_backbone(experiment: Experiment) -> Backbone:
    """Return a small random backbone of the kind and depth that the experiment names."""
    section = dict(experiment.backbone)
    settings = [part for e in experiment.methods for part in (e.method.hyper_parameters(), e.grid)]
    texts = [*sorted(set(strings(settings))), *listed(experiment.stream)]
    depth = 1 + max([_DEPTH, *_layers([section, *settings])])
    return small_backbone(section.pop("name"), texts=texts, depth=depth, **section)


def assumed(experiment: Experiment) -> list[str]:
    """Return what of the forms is not known but assumed, a sentence each."""
    name, said = experiment.backbone["name"], []
    origin = small_config(name).origin
    if origin.startswith("its name"):
        said.append(f"Kind and depth of {name} are assumed from {origin}.")
    options = experiment.stream
    named = options["name"]
    while options.get("options"):
        named, options = options.get("of", named), options["options"]
    path = options.get("path")
    if path is not None and not Path(path).exists() and not listed(options):
        said.append(f"{path} is not there: {assumed_folder(str(named), options)}.")
    return said


def stand_in_options(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of the same stream on made-up data.

    The builder stays the same, so that it checks the options as ever. Digits, which come with
    scikit-learn, and text files that are there are used themselves, a few rows of each class.

    Args:
        options: of `load_stream`, with the name.
        folder: where the data is written, once.
    """
    changed = _opened(options, folder, few="of" not in STREAMS[options["name"]].options)
    if "of" not in STREAMS[options["name"]].options:
        changed |= {k: v for k, v in _FEW.items() if k in STREAMS[options["name"]].options}
    return changed


def _opened(options: Mapping[str, Any], folder: Path, few: bool) -> dict[str, Any]:
    """Return options that read made-up data; an arrangement's say it in what it arranges."""
    changed = dict(options)
    name, inner = str(changed.get("name", "")), changed.get("options") or {}
    if "of" in changed:
        of = str(changed["of"])
        if of not in STREAMS:  # a file or folder
            place = _write({"path": of, **changed}, folder, few)
            return {**changed, "of": str(place)}
        inner = _opened({"name": of, **inner}, folder, few)
        del inner["name"]
        if "data" in inner:  # arrangements hand it on, and take it beside `of` alone
            changed["data"] = inner.pop("data")
        return {**changed, **({"options": inner} if inner else {})}
    if "path" in changed:
        place = _write(changed, folder, few)
        return {**{k: v for k, v in changed.items() if k != "test_path"}, "path": str(place)}
    if "data" in STREAMS[name].options:
        write_data(folder / "data", listed(options))
        changed["data"] = str(folder / "data")
    return changed


def _write(options: Mapping[str, Any], folder: Path, few: bool) -> Path:
    """Write a folder of images or a file of texts for `path`, and return its place."""
    path = Path(options["path"])
    if path.suffix.lower() in (".csv", ".jsonl"):
        return path if path.is_file() else _texts(options, folder / "texts.csv", few)
    return image_stand_in(options, folder / "images", few)


def _texts(options: Mapping[str, Any], file: Path, few: bool) -> Path:
    columns = [options.get("text") or "text", options.get("label") or "label"]
    split, task = options.get("split") or "split", options.get("task")
    domains = options.get("scenario") == "domain"
    tasks = options.get("tasks")
    count = tasks if isinstance(tasks, int) else 5
    names = listed(options) or filled([], A_TASK if domains else A_TASK * count)
    train, test = rows_of(len(names), few)
    rows = [
        [name, part]
        for part, many in (("train", train), ("test", test))
        for name in names
        for _ in range(many)
    ]
    columns.append(split)
    if domains:
        rows = [[*row, f"domain {k}"] for k in range(count) for row in rows]
    elif task is not None:
        rows = [[*row, f"task {names.index(row[0]) // A_TASK}"] for row in rows]
    if domains or task is not None:
        columns.append(task or "task")
    if not file.exists():
        write_texts(file, columns, rows)
    return file


def _layers(value: Any, named: bool = False) -> Iterator[int]:
    """Yield the numbers under keys of layers in a nested value, counted from either end."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _layers(inner, named or key.endswith("layers"))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _layers(inner, named)
    elif named and isinstance(value, int):
        yield abs(value)
