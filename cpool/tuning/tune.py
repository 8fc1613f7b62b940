"""tune: specialise a frozen model on rows of text and label, and say what that was worth."""

import time
from pathlib import Path
from typing import Any

from cpool.backbones import Backbone, load_backbone
from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.meter import stored_bytes, trained_parameters
from cpool.methods import NCM, Method, PromptRidge, PromptTuning, ZeroShot
from cpool.seeding import seeded
from cpool.streams import Examples
from cpool.tuning.store import RECORD, Record, TaskRecord
from cpool.tuning.tuned import Tuned, origin, read_task, start_text

__all__ = ["tune"]

# A prompt is trained for about so many steps of 8 rows, and for ten epochs at most: minutes on a
# small model. Longer hard prompts than this are no start for a prompt.
STEPS, LONGEST = 300, 64


def tune(
    data: Any,
    backbone: str | Path,
    out: str | Path,
    *,
    name: str = "first",
    template: str | None = None,
    validation: float = 0.2,
    dtype: str | None = None,
    device: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    **train: Any,
) -> Tuned:
    """Specialise a model on texts with labels, beside the hard prompt and a baseline.

    On a language model a prompt is tuned (`PromptTuning`, from a text that lists the labels); on an
    encoder `PromptRidge` is fitted. What is compared answers the same held-out rows:
    `record.compared` has accuracy, trained parameters, bytes and seconds of each.

    Args:
        data: a CSV (header text,label) or JSON Lines file, or a pair (texts, labels).
        backbone: a hub id or folder.
        out: a new folder for the model.
        name: of this first task.
        template: the words around a text, for a language model; Jinja with `{{ text }}`.
        validation: share of each label's rows that is held out.
        dtype: of the weights.
        device: where to run; what accelerate finds by default.
        seed: of everything random.
        quiet: show no progress.
        **train: settings of training, such as epochs=5 or lr=0.01.

    Raises:
        ConfigError: `out` holds a tuned model, or a setting does not exist.
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
    fit, held, labels = read_task(data, validation)
    model = load_backbone(backbone, dtype=dtype)
    if model.kind == "vision":
        raise ConfigError(
            expected="a model that reads texts",
            got=f"{model.name} ({model.family}), which reads images",
            remedy="Name a language model or a text encoder.",
        )
    methods = _methods(model, labels, template)
    options: dict[str, Any] = {"device": device, "seed": seed, "quiet": quiet}
    record = Record({"name": str(backbone), "dtype": dtype}, list(labels))
    for method in methods:
        own = train if method is methods[-1] else {}
        if isinstance(method, PromptTuning):
            own = {"epochs": max(1, min(10, STEPS * 8 // len(fit))), **own}
        with seeded(seed, "build"):
            learner = Learner(method.build(model), **options, **own)
        learner.model.name_classes(labels)
        record.compared.append(_measured(learner, method, fit, held, name))
    task = TaskRecord(name, origin(data), list(range(len(labels))), len(fit), len(held))
    record.tasks.append(task)
    tuned = Tuned(learner, out, record)
    tuned.save([held])
    return tuned


def _methods(backbone: Backbone, labels: tuple[str, ...], template: str | None) -> list[Method]:
    """Return what is compared; the last one is kept."""
    if not backbone.has_words:
        return [NCM(), PromptRidge()]
    around = template or ZeroShot.template
    # Closed labels, so that a label of a later task may begin one of these.
    shared: dict[str, Any] = {"labels": None, "end": "always"}
    listed = "Labels: {{ labels | join(', ') }}.\n" + around
    text = start_text(labels)
    short = len(backbone.processor.encode(text, add_special_tokens=False)) <= LONGEST
    start: dict[str, Any] = {"init": "text", "text": text, "length": None} if short else {}
    return [
        ZeroShot(template=around, **shared),
        ZeroShot(template=listed, **shared),
        NCM(),
        PromptTuning(template=around, **shared, **start),
    ]


def _measured(
    learner: Learner, method: Method, fit: Examples, held: Examples, name: str
) -> dict[str, Any]:
    learner.fit_task(fit, name)
    started = time.perf_counter()
    answers = learner.predict(held.x)
    seconds = time.perf_counter() - started
    row = method.name
    if isinstance(method, ZeroShot):
        row = "hard prompt, labels listed" if "labels" in method.template else "hard prompt"
    return {
        "row": row,
        "accuracy": float((answers == held.y).mean()),
        "trained_parameters": trained_parameters(learner.model, learner.trained),
        "bytes": stored_bytes(learner.model),
        "train_seconds": learner.train_seconds,
        "seconds_per_text": seconds / len(held),
    }
