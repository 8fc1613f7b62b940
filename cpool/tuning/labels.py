"""Labels: a prompt or PromptRidge on rows of text and label, beside hard prompts and a baseline."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cpool.backbones import Backbone
from cpool.initialisers import from_text
from cpool.language import check_readable, readable
from cpool.learner import Learner
from cpool.methods import NCM, Method, PromptRidge, PromptTuning, ZeroShot
from cpool.seeding import seeded
from cpool.streams import Examples
from cpool.tuning.costs import costs
from cpool.tuning.usual import LONGEST, usual_epochs

__all__ = ["Added", "add_labels", "compare_labels"]


@dataclass(frozen=True)
class Added:
    """What adding a task did.

    Attributes:
        task: its name.
        accuracy: on the rows held out of it, when nobody tells the task.
        before, after: accuracy of each older task on its held-out rows, by name; nobody tells it.
        told_before, told_after: the same when the task is told.
        changed: held-out answers of older tasks that are others now though the task is told.
    """

    task: str
    accuracy: float
    before: dict[str, float]
    after: dict[str, float]
    told_before: dict[str, float]
    told_after: dict[str, float]
    changed: int


def compare_labels(
    backbone: Backbone,
    parts: tuple[Examples, Examples, tuple[str, ...]],
    name: str,
    template: str | None,
    train: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Learner, list[dict[str, Any]]]:
    """Fit what is compared, and measure each on held-out rows.

    Args:
        backbone: the frozen model.
        parts: rows to learn from, rows to measure on, and the names of the labels.
        name: of the task.
        template: the words around a text; those of `ZeroShot` when None.
        train: settings of training.
        options: of the learner: device, seed, quiet.

    Returns:
        The learner that is kept, and the rows of the comparison.
    """
    fit, held, labels = parts
    methods, rows = _methods(backbone, labels, template), []
    for method in methods:
        own = train if method is methods[-1] else {}
        if isinstance(method, PromptTuning):
            own = {"epochs": usual_epochs(len(fit)), **own}
        with seeded(options["seed"], "build"):
            learner = Learner(method.build(backbone), **options, **own)
        learner.model.name_classes(labels)
        rows.append(_measured(learner, method, fit, held, name))
    return learner, rows


def _methods(backbone: Backbone, labels: tuple[str, ...], template: str | None) -> list[Method]:
    """Return what is compared; the last one is kept."""
    if not backbone.has_words:
        return [NCM(), PromptRidge()]
    around = template or ZeroShot().template_text
    # Closed labels, so that a label of a later task may begin one of these.
    shared: dict[str, Any] = {"labels": None, "end": "always"}
    listed = "Labels: {{ labels | join(', ') }}.\n" + around
    text = _start_text(labels)
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
    learner.predict(held.take([0]).x)  # the first pass of a model pays for what it loads
    started = time.perf_counter()
    answers = learner.predict(held.x)
    seconds = time.perf_counter() - started
    row = method.name
    if isinstance(method, ZeroShot):
        row = "hard prompt, labels listed" if "labels" in method.template_text else "hard prompt"
    return {
        "row": row,
        "accuracy": float((answers == held.y).mean()),
        **costs(learner, seconds, len(held)),
    }


def add_labels(
    learner: Learner,
    known: Sequence[str],
    names: Sequence[str],
    older: Sequence[Examples],
    parts: tuple[Examples, Examples, tuple[str, ...]],
) -> tuple[Added, tuple[Examples, Examples], list[str]]:
    """Learn a further task, and say whether the older ones moved.

    Args:
        learner: with the older tasks.
        known: names of the classes, by number; labels that are not among them get the next ones.
        names: of all tasks, that of the new one last.
        older: the held-out rows of each older task.
        parts: rows to learn from, rows to measure on, and the names of their labels.

    Returns:
        What happened, both parts under the numbers that their classes have here, and the names of
        all classes.

    Raises:
        DataError: labels that the model cannot tell apart.
    """
    labels = [*known, *(label for label in parts[2] if label not in known)]
    words = getattr(learner.model.head, "words", None)
    if words is not None:
        check_readable(labels)  # as the data has them; a loaded model knows them as words alone
        words.more(labels[len(known) :])
    numbers = np.array([labels.index(label) for label in parts[2]])
    fit, held = (replace(part, y=numbers[part.y]) for part in parts[:2])
    _start_from(learner, parts[2])
    before, told_before = _answers(learner, older), _answers(learner, older, told=True)
    learner.fit_task(fit, names[-1])
    after, told_after = _answers(learner, older), _answers(learner, older, told=True)
    own = _answers(learner, [held], first=len(older))

    def scores(answers: list[np.ndarray]) -> dict[str, float]:
        pairs = zip(names, answers, older, strict=False)
        return {name: _accuracy(answer, part) for name, answer, part in pairs}

    pairs = zip(told_before, told_after, strict=True)
    added = Added(
        task=names[-1],
        accuracy=_accuracy(own[0], held),
        before=scores(before),
        after=scores(after),
        told_before=scores(told_before),
        told_after=scores(told_after),
        changed=sum(int((one != other).sum()) for one, other in pairs),
    )
    return added, (fit, held), labels


def _start_from(learner: Learner, labels: Sequence[str]) -> None:
    """Let the prompt of a new task start from a text that lists its own labels."""
    model = learner.model
    if isinstance(model.method, PromptTuning) and model.method.init == "text" and model.prompter:
        branch = next(iter(model.prompter))
        branch.pool.init = from_text(model.backbone, _start_text(labels))


def _answers(
    learner: Learner, parts: Sequence[Examples], *, told: bool = False, first: int = 0
) -> list[np.ndarray]:
    predict = learner.predictor.predict
    return [predict(part, task if told else None).labels for task, part in enumerate(parts, first)]


def _accuracy(answers: np.ndarray, part: Examples) -> float:
    return float((answers == part.y).mean())


def _start_text(labels: Sequence[str]) -> str:
    """Return the hard prompt from which the prompt of a task starts."""
    return f"Say which label fits the text: {', '.join(map(readable, labels))}."
