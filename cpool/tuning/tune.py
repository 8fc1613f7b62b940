"""tune: specialise a frozen model on rows of one's own, and say what that was worth."""

from pathlib import Path
from typing import Any

from cpool.backbones import Truncations, load_backbone
from cpool.errors import ConfigError
from cpool.language import Template, TemplateLike
from cpool.tuning.completions import compare_completions
from cpool.tuning.labels import compare_labels
from cpool.tuning.rows import kind_of, origin, read_pairs, read_task
from cpool.tuning.store import RECORD, Record, TaskRecord
from cpool.tuning.tuned import Tuned

__all__ = ["tune"]


def tune(
    data: Any,
    backbone: str | Path,
    out: str | Path,
    *,
    name: str = "first",
    template: TemplateLike | None = None,
    validation: float = 0.2,
    dtype: str | None = None,
    device: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    **train: Any,
) -> Tuned:
    """Specialise a model on texts with labels, or with what shall follow them.

    Labels: on a language model a prompt is tuned (`PromptTuning`, from a text that lists the
    labels); on an encoder `PromptRidge` is fitted, beside the hard prompt and a baseline. What is
    compared answers the same held-out rows: `record.compared` has accuracy, trained parameters,
    bytes and seconds of each.

    Completions: on a language model a prompt is tuned from the first rows, written out (or from
    drawn words, where they are too long), beside the model without a prompt and with those rows as
    a hard prompt. `record.compared` has the "loss" of held-out completions in nats a token, their
    end included, and "exact_match", the share of greedy completions that are right.

    Args:
        data: a CSV file with a header, text,label or prompt,completion, or a JSON Lines file of
            these keys; a pair (texts, labels); or {"prompt": […], "completion": […]}.
        backbone: a hub id or folder.
        out: a new folder for the model.
        name: of this first task.
        template: the words around a text, for a language model; Jinja with `{{ text }}`, as a text
            or as the `pathlib.Path` of its file.
        validation: share of the rows that is held out, of each label.
        dtype: of the weights.
        device: where to run; what accelerate finds by default.
        seed: of everything random.
        quiet: show no progress.
        **train: settings of training, such as epochs=5 or lr=0.01.

    Raises:
        ConfigError: `out` holds a tuned model, no such template, or a setting does not exist.
        DataError: data of a wrong kind.
        BackboneError: no model there, or one of images.
    """
    out = Path(out)
    if (out / RECORD).exists():
        raise ConfigError(
            expected="a new folder",
            got=f"{out}, which holds a tuned model",
            remedy="Choose another folder, or add a task to it (`cpool add`).",
        )
    around = None if template is None else Template.of(template).source
    kind, found = kind_of(data), None
    parts = read_task(data, validation) if kind == "labels" else None
    fit, held = read_pairs(data, validation, 0) if parts is None else parts[:2]
    model = load_backbone(backbone, dtype=dtype)
    if model.kind == "vision":
        raise ConfigError(
            expected="a model that reads texts",
            got=f"{model.name} ({model.family}), which reads images",
            remedy="Name a language model or a text encoder.",
        )
    options: dict[str, Any] = {"device": device, "seed": seed, "quiet": quiet}
    with Truncations().once():
        if parts is None:
            learner, compared, found = compare_completions(
                model, (fit, held), name, around, train, options
            )
        else:
            learner, compared = compare_labels(model, parts, name, around, train, options)
    labels = [] if parts is None else list(parts[2])
    classes = [0] if parts is None else list(range(len(labels)))
    task = TaskRecord(name, origin(data), classes, len(fit), len(held), found)
    record = Record({"name": str(backbone), "dtype": dtype}, labels, [task], compared, kind)
    tuned = Tuned(learner, out, record)
    tuned.save([held])
    return tuned
