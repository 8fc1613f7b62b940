"""Completions: a prompt tuned on rows of prompt and completion, beside the model without it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpool.backbones import Backbone, Truncations
from cpool.backbones.completions import IGNORED, gap
from cpool.errors import ConfigError
from cpool.heads import CompletionHead
from cpool.initialisers import from_text
from cpool.language import LabelWords, Surround, Template
from cpool.learner import Learner
from cpool.methods import PromptTuning
from cpool.model import PromptedModel
from cpool.readout import CompletionReadout
from cpool.seeding import seeded
from cpool.streams import Examples
from cpool.tuning.costs import costs
from cpool.tuning.scores import ROWS, Scores, exact, score
from cpool.tuning.usual import LONGEST, usual_epochs

__all__ = ["AddedCompletions", "add_completions", "compare_completions"]


@dataclass(frozen=True)
class AddedCompletions:
    """What adding a task of completions did; losses are in nats a token of held-out rows.

    Attributes:
        task: its name.
        loss: on the rows held out of it, when nobody tells the task.
        exact_match: share of these whose greedy completion is theirs, likewise.
        before, after: loss of each older task, by name; nobody tells it.
        told_before, told_after: the same when the task is told.
        routed: name of each task → name of a task → how many of the held-out rows of the first
            now get the prompt of the second, when nobody tells the task.
        changed: held-out rows of older tasks whose loss is another now though the task is told.
    """

    task: str
    loss: float
    exact_match: float
    before: dict[str, float]
    after: dict[str, float]
    told_before: dict[str, float]
    told_after: dict[str, float]
    routed: dict[str, dict[str, int]]
    changed: int


def compare_completions(
    backbone: Backbone,
    parts: tuple[Examples, Examples],
    name: str,
    template: str | None,
    train: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Learner, list[dict[str, Any]], dict[str, Any]]:
    """Tune a prompt, and compare it on held-out rows with no prompt and with rows that are shown.

    Args:
        backbone: a frozen language model.
        parts: rows to learn from, and rows to measure on.
        name: of the task.
        template: the words around a text; none when None.
        train: settings of training.
        options: of the learner: device, seed, quiet.

    Returns:
        The learner of the prompt, the rows of the comparison, and what was found in the data.

    Raises:
        ConfigError: no language model, or a setting that does not exist.
        DataError: completions that leave no room for a text.
    """
    if not backbone.has_words:
        raise ConfigError(
            expected="a language model, to learn rows of prompt,completion",
            got=f"{backbone.name} ({backbone.family}, {backbone.kind})",
            remedy="Name a decoder or a T5, or give rows of text,label.",
        )
    fit, held = parts
    around = template or "{{ text }}"
    train = {"epochs": usual_epochs(len(fit)), **train}
    shown = _shown(backbone, fit, around)
    start: dict[str, Any] = {"init": "text", "text": shown, "length": None} if shown else {}
    method = PromptTuning(template=around, answers="completions", **start)
    with seeded(options["seed"], "build"):
        tuned = Learner(method.build(backbone), **options, **train)
    found = _found(tuned, parts)
    plain = [("no prompt", "")] + ([("hard prompt, rows shown", shown)] if shown else [])
    rows = []
    for row, words in plain:
        learner = Learner(_plain(backbone, around, words), **options)
        rows.append(_measured(learner, row, fit, held, name, found["longest"]))
    rows.append(_measured(tuned, method.name, fit, held, name, found["longest"]))
    return tuned, rows, found


def _shown(backbone: Backbone, fit: Examples, template: str) -> str:
    """Return the first rows as a hard prompt, as many as it may have; "" where none fits."""
    before, after = Template(template).around()
    most = min(LONGEST, (backbone.max_tokens or 4 * LONGEST) // 4)
    made = ""
    for text, completion in zip(fit.x, fit.completions or (), strict=True):
        asked = f"{before}{text}{after}"
        longer = f"{made}{asked}{gap(asked, completion)}{completion}\n"
        ids = backbone.processor.encode(longer, add_special_tokens=False, verbose=False)
        if len(ids) > most:
            break
        made = longer
    return made


def _plain(backbone: Backbone, template: str, words: str) -> PromptedModel:
    """Return the language model as it is, with words in front of each row."""
    head = CompletionHead(ready=True)
    model = PromptedModel(backbone, head, readout=CompletionReadout())
    source = Template("{{ examples[0].text }}" + template)
    model.passes.surround = Surround(source, LabelWords(backbone.processor))
    model.passes.surround.examples = lambda: [{"text": words, "label": ""}]
    return model


def _found(learner: Learner, parts: Sequence[Examples]) -> dict[str, Any]:
    """Return lengths of completions, and how many texts are cut; refuse what does not fit."""
    model, cut, counts = learner.model, Truncations(), []
    with cut.collect(alone=True):
        for part in parts:
            for start in range(0, len(part), ROWS):
                some = part.take(list(range(start, min(start + ROWS, len(part)))))
                batch = model.backbone.prepare(
                    some.x, model.max_tokens(), model.passes.around, some.completions
                )
                counts += (batch["completion"] != IGNORED).sum(dim=1).tolist()
    lengths = {"shortest": min(counts), "mean": sum(counts) / len(counts), "longest": max(counts)}
    return {**lengths, "cut": len(cut.texts)}


def _measured(
    learner: Learner, row: str, fit: Examples, held: Examples, name: str, longest: int
) -> dict[str, Any]:
    learner.fit_task(fit, name)
    loss = score(learner, held).loss
    started = time.perf_counter()
    share = exact(learner.model, held, None, longest)
    seconds = time.perf_counter() - started
    return {
        "row": row,
        "loss": loss,
        "exact_match": share,
        **costs(learner, seconds, len(held)),
    }


def add_completions(
    learner: Learner, names: Sequence[str], older: Sequence[Examples], fit: Examples, held: Examples
) -> tuple[AddedCompletions, dict[str, Any]]:
    """Learn a further task of completions, and say whether the older ones moved.

    Args:
        learner: with the older tasks.
        names: of all tasks, that of the new one last.
        older: the held-out rows of each older task.
        fit: rows to learn from.
        held: rows of the new task to measure on.

    Returns:
        What happened, and what was found in the data.
    """
    found = _found(learner, [fit, held])
    model = learner.model
    if isinstance(model.method, PromptTuning) and model.method.init == "text" and model.prompter:
        # A first row that is too long for a hard prompt is still a text to start from, cut.
        text = _shown(model.backbone, fit, model.method.template_text) or str(fit.x[0])
        next(iter(model.prompter)).pool.init = from_text(model.backbone, text)
    before, told_before = _all(learner, older), _all(learner, older, told=True)
    learner.fit_task(fit, names[-1])
    after, told_after = _all(learner, older), _all(learner, older, told=True)
    own = score(learner, held)
    pairs = zip(told_before, told_after, strict=True)

    def losses(scores: Sequence[Scores]) -> dict[str, float]:
        return {name: one.loss for name, one in zip(names, scores, strict=False)}

    added = AddedCompletions(
        task=names[-1],
        loss=own.loss,
        exact_match=exact(model, held, None, found["longest"]),
        before=losses(before),
        after=losses(after),
        told_before=losses(told_before),
        told_after=losses(told_after),
        routed={
            name: {other: int((one.tasks == number).sum()) for number, other in enumerate(names)}
            for name, one in zip(names, [*after, own], strict=True)
        },
        changed=sum(int(np.count_nonzero(one.sums != other.sums)) for one, other in pairs),
    )
    return added, found


def _all(learner: Learner, parts: Sequence[Examples], *, told: bool = False) -> list[Scores]:
    return [score(learner, part, task if told else None) for task, part in enumerate(parts)]
