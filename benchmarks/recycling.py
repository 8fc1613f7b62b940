"""Prompts that are used again: what a new task gains by starting from the prompt of another.

    python -m benchmarks.smollm2                the model, once
    python -m benchmarks.recycling              four hours of a core; --jobs 2: two seeds at a time

Four domains of CLINC150, fifteen intents each, 8 training and 4 test queries an intent, on
SmolLM2-135M-Instruct. Each domain is learned by a prompt of 20 tokens from drawn words
("scratch"); then from the trained prompt of each other domain; and the last one from what three
domains learned together: the same prompt trained on one after another ("shared"), and the P* of
multitask prompt tuning, without teachers ("multitask") and with ("taught"). Accuracy is measured on
the way, at equal steps.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.by_seed import measure_seeds
from benchmarks.curves import MARKS, curve, learner_of, prompt_of, starting
from cpool import Learner, load_stream
from cpool.backbones import Backbone
from cpool.methods import MultitaskPromptTuning, PromptTuning
from cpool.streams import Task
from cpool.transfer import best_source

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "recycling.json"
DOMAINS, TRAIN, TEST, SEEDS = 4, 8, 4, 3
TEMPLATE = "{{ text }}\nIntent:"
SETTINGS: dict[str, Any] = {"batch_size": 4, "lr": 0.03, "schedule": "constant", "epochs": 2}


def measure(backbone: Backbone, seed: int) -> list[dict[str, Any]]:
    """Return the curves of one seed, each with where it started and what was learned."""
    # The same domains and rows for every seed, which draws the start of prompts and the order.
    whole = load_stream(
        "clinc150", seed=0, validation=0, train_per_class=TRAIN, test_per_class=TEST
    )
    tasks, names = whole[:DOMAINS], whole.class_names
    found: list[dict[str, Any]] = []
    method = PromptTuning(template=TEMPLATE)

    def note(kind: str, source: str, target: Task, values: Sequence[float], **more: Any) -> None:
        found.append(
            {
                "kind": kind,
                "seed": seed,
                "source": source,
                "target": target.name,
                "accuracy": dict(zip(map(str, MARKS), values, strict=True)),
                **more,
            }
        )
        print(json.dumps(found[-1]), flush=True)

    prompts = []
    for task in tasks:
        learner = learner_of(method, backbone, names, seed, **SETTINGS)
        note("scratch", "", task, curve(learner, task))
        prompts.append(prompt_of(learner))
    nearness = _nearness(tasks, learner_of(method, backbone, names, seed, **SETTINGS))
    for target, task in enumerate(tasks):
        for source, values in enumerate(prompts):
            if source != target:
                learner = starting(learner_of(method, backbone, names, seed, **SETTINGS), values)
                note(
                    "transfer",
                    tasks[source].name,
                    task,
                    curve(learner, task),
                    nearness=nearness[source, target],
                )
    *sources, last = tasks
    together = ", ".join(task.name for task in sources)
    shared = learner_of(
        PromptTuning(template=TEMPLATE, slots="shared"), backbone, names, seed, **SETTINGS
    )
    for task in sources:
        shared.fit_task((task.train.x, task.train.y), task.name)
    again = starting(learner_of(method, backbone, names, seed, **SETTINGS), prompt_of(shared))
    note("shared", together, last, curve(again, last))
    for kind, strength in (("multitask", 0.0), ("taught", 0.9)):
        multitask = MultitaskPromptTuning(
            template=TEMPLATE,
            shared_tasks=len(sources),
            distil=strength,
            teacher_epochs=SETTINGS["epochs"],
            teacher_lr=SETTINGS["lr"],
        )
        universal = learner_of(multitask, backbone, names, seed, **SETTINGS)
        for task in sources:
            universal.fit_task((task.train.x, task.train.y), task.name)
        note(kind, together, last, curve(universal, last))
    return found


def _nearness(tasks: Sequence[Task], learner: Learner) -> dict[tuple[int, int], float]:
    """Return how near the texts of a source are to those of a target, before any training."""
    learner.train = learner.train.but(epochs=1, lr=1e-9)
    for task in tasks:
        some = task.train.take(list(range(0, len(task.train), 4)))
        learner.fit_task((some.x, some.y), task.name)
    assert learner.model.prompter is not None
    router: Any = next(iter(learner.model.prompter)).policy
    near = {}
    for target, task in enumerate(tasks):
        for source in best_source(router, learner.feed.queries(task.train), k=len(tasks)):
            near[source.slot, target] = source.nearness
    return near


if __name__ == "__main__":
    settings = {**SETTINGS, "train": TRAIN, "test": TEST}
    measure_seeds(measure, SEEDS, OUT, settings, __doc__)
