"""Does a prompt come nearer to LoRA where LoRA teaches it?

    python -m benchmarks.smollm2                  the model, once
    python -m benchmarks.taught_prompt            about an hour of one core; writes as it goes

The ten domains of CLINC150 with 16 training queries each, where a prompt stays furthest behind
LoRA (benchmarks/studies/prompt_steps.toml). LoRA learns the labels first, 160 steps of four
queries. Then a prompt is trained in each of five ways: on the labels, as there; on what LoRA
answers to the same queries, `KL(p_LoRA(· | x) ‖ p(· | P, x))` over the ten names; on half of each;
and on what it answers to 64 queries a domain, whose labels nobody reads, in as many steps and in
four times as many.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.by_seed import measure_seeds
from cpool import Learner, load_stream
from cpool.backbones import Backbone
from cpool.methods import LoRA, PromptTuning
from cpool.model import PromptedModel
from cpool.seeding import seeded

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "taught-prompt.json"
SEEDS, BATCH, STEPS, LR = 3, 4, 160, 0.01
LABELLED, UNLABELLED, TESTED = 16, 64, 28
TEMPLATE = "{{ text }}\nIntent:"
WORDS = (
    "Domains: auto and commute, banking, credit cards, home, kitchen and dining, meta, small talk, "
    "travel, utility, work."
)
# How a prompt is taught: the weight of the teacher, whether on other queries, and steps.
WAYS: dict[str, tuple[float, bool, int]] = {
    "labels": (0.0, False, STEPS),
    "teacher": (1.0, False, STEPS),
    "labels and teacher": (0.5, False, STEPS),
    "teacher, other queries": (1.0, True, STEPS),
    "teacher, other queries, 640 steps": (1.0, True, 4 * STEPS),
}


def data(seed: int, per_class: int) -> Any:
    """Return the domains as one task, and what they are called."""
    stream = load_stream(
        "clinc150", labels="domain", tasks=1, seed=seed, validation=0,
        train_per_class=per_class, test_per_class=TESTED,
    )  # fmt: skip
    return stream[0], stream.class_names


@torch.no_grad()
def answers(model: PromptedModel, texts: list[str]) -> Tensor:
    """Return the scores of the ten names after each text [n C]."""
    model.eval()
    parts = [texts[at : at + 2 * BATCH] for at in range(0, len(texts), 2 * BATCH)]
    return torch.cat([model(model.prepare(part), task=0).logits.float() for part in parts])


def taught(
    backbone: Backbone, names: Any, texts: list[str], said: Tensor, labels: Tensor | None,
    weight: float, steps: int, seed: int,
) -> PromptedModel:  # fmt: skip
    """Train a prompt on the answers of a teacher, and on labels where there are any.

    Args:
        backbone: of the prompt.
        names: of the classes.
        texts: that are learned from.
        said: scores of the teacher after each [n C].
        labels: their columns [n].
        weight: of the teacher; that of the labels is what is left of 1.
        steps: of BATCH texts each.
        seed: of their order.
    """
    method = PromptTuning(template=TEMPLATE, init="text", length=29, text=WORDS, slots="shared")
    model = method.build(backbone)
    model.name_classes(names)
    model.begin_task(list(range(len(names))))
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with seeded(seed, "taught"):
        passes = math.ceil(steps * BATCH / len(texts))
        order = torch.cat([torch.randperm(len(texts)) for _ in range(passes)])
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        scores = model(model.prepare([texts[i] for i in rows]), task=0).logits.float()
        target = said[rows].softmax(dim=1)
        loss = weight * F.kl_div(scores.log_softmax(dim=1), target, reduction="batchmean")
        if labels is not None and weight < 1:
            loss = loss + (1 - weight) * F.cross_entropy(scores, labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    model.prompter.branches["prompt"].pool.mark_trained(torch.tensor([[0]]))
    return model


def measure(backbone: Backbone, seed: int) -> list[dict[str, Any]]:
    """Return a row for the teacher and one for each way of teaching."""
    (task, names), (more, _) = data(seed, LABELLED), data(seed, UNLABELLED)
    tests, right = [str(x) for x in task.test.x], torch.tensor(task.test.y)
    if tests != [str(x) for x in more.test.x]:
        raise SystemExit("the test queries depend on how many training queries there are")
    start = time.perf_counter()
    settings = {"epochs": math.ceil(STEPS * BATCH / len(task.train.x)), "batch_size": BATCH}
    learner = Learner(LoRA(template=TEMPLATE).build(backbone), seed=seed, lr=0.003, **settings)
    learner.model.name_classes(names)
    learner.fit_task(task)
    teacher = learner.model
    rows = [_row("lora", seed, answers(teacher, tests), right, 0, start)]
    own, others = ([str(x) for x in part.train.x] for part in (task, more))
    labels = torch.tensor(task.train.y)
    said = {False: answers(teacher, own), True: answers(teacher, others)}
    for way, (weight, unlabelled, steps) in WAYS.items():
        start = time.perf_counter()
        texts = others if unlabelled else own
        model = taught(
            backbone, names, texts, said[unlabelled], None if unlabelled else labels, weight, steps,
            seed,
        )  # fmt: skip
        rows.append(_row(way, seed, answers(model, tests), right, steps, start))
    return rows


def _row(
    way: str, seed: int, scores: Tensor, right: Tensor, steps: int, start: float
) -> dict[str, Any]:
    accuracy = float((scores.argmax(dim=1) == right).double().mean())
    row = {"way": way, "seed": seed, "accuracy": accuracy, "steps": steps or STEPS}
    print({**row, "seconds": round(time.perf_counter() - start, 1)}, flush=True)
    return row


if __name__ == "__main__":
    chosen = {"labelled": LABELLED, "unlabelled": UNLABELLED, "batch_size": BATCH, "lr": LR}
    measure_seeds(measure, SEEDS, OUT, chosen, __doc__)
