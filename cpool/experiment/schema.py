"""The shape of an experiment file, as pydantic models; those of methods and streams are derived.

A method's section has the fields of its dataclass, a stream's those of its builder, so that a new
one needs no line here. Everything is strict: true is no number, "3" is no 3, and only a whole
number passes for a real one.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticSchemaGenerationError

from cpool.errors import ConfigError, unknown
from cpool.language import Template, TemplateLike
from cpool.methods import METHODS
from cpool.settings import TrainSettings
from cpool.streams.registry import STREAMS

__all__ = [
    "BackboneSection",
    "SearchSection",
    "Section",
    "Top",
    "Train",
    "grid_section",
    "method_section",
    "stream_section",
]


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class BackboneSection(Section):
    """`[backbone]`: the arguments of `load_backbone`."""

    name: str = "embedded"
    pooling: Literal["auto", "cls", "mean"] = "auto"
    normalize: bool = False
    layers: Annotated[list[int], Field(min_length=1)] = [-1]
    dtype: str | None = None


class SearchSection(Section):
    """`[search]`: what every method's trials have in common."""

    budget: Annotated[int, Field(ge=1)]
    validation: float | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    train_per_class: Annotated[int, Field(ge=1)] | None = None
    validation_per_class: Annotated[int, Field(ge=1)] | None = None
    first_tasks: Annotated[int, Field(ge=1)] | None = None
    sampler: Literal["grid", "optuna"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    evaluate: str = "validation"


class Top(Section):
    """The file itself, with the sections still unchecked."""

    name: Annotated[str, Field(pattern=r"^[\w][\w .+-]*$")] | None = None
    description: str = ""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    threads: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["no", "bf16"] = "no"
    evaluate: Literal["test", "validation"] = "test"
    trackers: list[str] = []
    backbone: dict[str, Any] = {}
    stream: dict[str, Any]
    train: dict[str, Any] = {}
    search: dict[str, Any] | None = None
    not_run: dict[str, str] = {}
    method: Annotated[list[dict[str, Any]], Field(min_length=1)]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _words(value: Any) -> Any:
    """Return the words of a template that is given by its file, so that these are what is recorded.

    Raises:
        ConfigError: no such file, no template, or another table.
    """
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"file"} or not isinstance(value["file"], str):
        raise ConfigError(
            expected='a template as a text, or its file as { file = "intent.jinja" }',
            got=repr(dict(value)),
            remedy="Write one of the two.",
        )
    return Template.read(Path(value["file"])).source


_TEMPLATE = Annotated[str, BeforeValidator(_words)]


def _hint(hint: Any) -> Any:
    """Return an annotation that pydantic can check against what TOML can hold."""
    if hint == TemplateLike:
        return _TEMPLATE
    if hint == tuple[TemplateLike, ...]:
        return Annotated[tuple[_TEMPLATE, ...], BeforeValidator(_tuple)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kept = [_hint(part) for part in typing.get_args(hint) if _checkable(part)]
        return typing.Union[tuple(kept)] if kept else Any  # noqa: UP007
    if not _checkable(hint):
        return Any
    if typing.get_origin(hint) is tuple:
        return Annotated[hint, BeforeValidator(_tuple)]
    return hint


def _checkable(hint: Any) -> bool:
    try:
        TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return False
    return True


def _of_dataclass(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {
        field.name: (
            _hint(hints[field.name]),
            Field(default_factory=field.default_factory)
            if field.default_factory is not MISSING
            else ...
            if field.default is MISSING
            else field.default,
        )
        for field in fields(cls)
    }


Train = create_model(
    "Train",
    __base__=Section,
    __doc__="`[train]` and `[method.train]`: the fields of `TrainSettings`.",
    **_of_dataclass(TrainSettings),
)


@functools.cache
def method_section(name: str, of: str | None = None) -> type[Section]:
    """Return the model of `[[method]]` for a method; `of` is the inner one of "joint".

    Raises:
        UnknownNameError: no such method.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    own = _of_dataclass(METHODS[name])
    if of is not None and "options" in own:
        if of not in METHODS or of == name:
            raise unknown("method", of, [known for known in METHODS if known != name])
        inner = create_model("Options", __base__=Section, **_of_dataclass(METHODS[of]))
        own["options"] = (inner, Field(default_factory=inner))
    label = Annotated[str, Field(pattern=r"^[\w][\w .+=-]*$")] | None
    return create_model(
        "Method",
        __base__=Section,
        name=(str, ...),
        label=(label, None),
        train=(Train, Train()),
        search=(dict[str, Any] | None, None),
        chosen=(dict[str, Any] | None, None),
        **own,
    )


@functools.cache
def grid_section(name: str, of: str | None = None) -> type[Section]:
    """Return the model of `[method.search]`: a list of values for every setting of a method.

    Raises:
        UnknownNameError: no such method.
    """
    return _lists_of(method_section(name, of), ("name", "label", "search", "chosen"))


def _lists_of(model: type[Section], left_out: tuple[str, ...] = ()) -> type[Section]:
    own: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        kind = field.annotation
        if key in left_out:
            continue
        if isinstance(kind, type) and issubclass(kind, Section):
            inner = _lists_of(kind)
            own[key] = (inner, Field(default_factory=inner))
        else:
            value: Any = field.rebuild_annotation()
            own[key] = (Annotated[list[value], Field(min_length=1)], [])
    return create_model("Grid", __base__=Section, **own)


@functools.cache
def stream_section(name: str) -> type[Section]:
    """Return the model of `[stream]` for a stream: the options of its builder.

    Raises:
        UnknownNameError: no such stream.
    """
    if name not in STREAMS:
        raise unknown("stream", name, STREAMS)
    return create_model(
        "Stream", __base__=Section, name=(str, ...), **_of_builder(STREAMS[name].builder)
    )


def _of_builder(builder: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(builder).parameters
    hints = typing.get_type_hints(builder)
    empty = inspect.Parameter.empty
    return {
        key: (_hint(hints.get(key, Any)), ... if p.default is empty else p.default)
        for key, p in parameters.items()
    }
