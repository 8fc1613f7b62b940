"""Does a prompt come nearer to LoRA where LoRA teaches it?

    python -m benchmarks.smollm2                  the model, once
    python -m benchmarks.taught_prompt            about an hour of one core; writes as it goes

The ten domains of CLINC150 with 16 training queries each, where a prompt stays furthest behind
LoRA (benchmarks/studies/prompt_steps.toml). LoRA learns the labels first, 160 steps of four
queries. Then a prompt is trained in as many steps in each of three ways: on the labels, as there;
on what LoRA answers to the same queries, `KL(p_LoRA(· | x) ‖ p(· | P, x))` over the ten names; and
on what it answers to 64 queries a domain, whose labels nobody reads.
"""

import math
from collections.abc import Sequence
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
# How a prompt is taught: whether by the teacher, and whether on other queries.
WAYS = {"labels": (False, False), "teacher": (True, False), "teacher, other queries": (True, True)}


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
    backbone: Backbone,
    names: Sequence[str],
    texts: Sequence[str],
    target: Tensor,
    seed: int,
) -> PromptedModel:
    """Train a prompt by `KL(target ‖ p(· | P, x))`, which of one-hot targets is the cross-entropy.

    Args:
        backbone: of the prompt.
        names: of the classes.
        texts: that are learned from.
        target: probabilities of the classes after each [n C].
        seed: of their order.
    """
    method = PromptTuning(template=TEMPLATE, init="text", length=29, text=WORDS, slots="shared")
    model = method.build(backbone)
    model.name_classes(names)
    model.begin_task(list(range(len(names))))
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with seeded(seed, "taught"):
        passes = math.ceil(STEPS * BATCH / len(texts))
        order = torch.cat([torch.randperm(len(texts)) for _ in range(passes)])
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        scores = model(model.prepare([texts[i] for i in rows]), task=0).logits.float()
        loss = F.kl_div(scores.log_softmax(dim=1), target[rows], reduction="batchmean")
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
    settings = {"epochs": math.ceil(STEPS * BATCH / len(task.train.x)), "batch_size": BATCH}
    learner = Learner(LoRA(template=TEMPLATE).build(backbone), seed=seed, lr=0.003, **settings)
    learner.model.name_classes(names)
    learner.fit_task(task)
    rows = [_row("lora", seed, answers(learner.model, tests), right)]
    own, others = ([str(x) for x in part.train.x] for part in (task, more))
    labels = F.one_hot(torch.tensor(task.train.y), len(names)).float()
    for way, (taught_by, unlabelled) in WAYS.items():
        texts = others if unlabelled else own
        target = answers(learner.model, texts).softmax(dim=1) if taught_by else labels
        model = taught(backbone, names, texts, target, seed)
        rows.append(_row(way, seed, answers(model, tests), right))
    return rows


def _row(way: str, seed: int, scores: Tensor, right: Tensor) -> dict[str, Any]:
    accuracy = float((scores.argmax(dim=1) == right).double().mean())
    print({"way": way, "seed": seed, "accuracy": accuracy}, flush=True)
    return {"way": way, "seed": seed, "accuracy": accuracy}


if __name__ == "__main__":
    chosen = {"labelled": LABELLED, "unlabelled": UNLABELLED, "batch_size": BATCH, "lr": LR}
    measure_seeds(measure, SEEDS, OUT, {**chosen, "steps": STEPS}, __doc__)
