"""What a step of tuning costs: time, memory and work of every row of an experiment, and of PEFT.

    python -m benchmarks.smollm2
    python benchmarks/speed/tuning.py [--experiment benchmarks/experiments/hard-vs-soft.toml]
        [--set KEY=VALUE …] [--out benchmarks/results/speed-tuning.json]

For each row that trains by steps: the time of a step (forward, backward, clip, optimiser), and its
share of that of full fine-tuning, in turns in one process; how many steps the experiment has; the
peak memory of a process of its own that does such steps, less what the libraries take; and the
floating point operations of a step. For another row: the seconds of its training, features
included. For every row: the tokens of a request beside its text, the time of one request that comes
alone, what is trained, and the bytes to keep. Beside them PEFT's own prompt tuning, which learns
the words of a completion: its step is compared with `CpoolForCausalLM` on the same rows. One
thread, about six minutes. benchmarks/panel_costs.py does so for the panels of a study.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from ratio import measure, ratios
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from cpool.backbones import Backbone
from cpool.data import make_loader
from cpool.experiment.config import Experiment
from cpool.experiment.parts import open_backbone, open_stream
from cpool.experiment.reading import read_experiment
from cpool.interop.transformers import CpoolForCausalLM
from cpool.learner import Learner
from cpool.meter import PeakMemory, stored_bytes, trained_parameters
from cpool.methods import PromptTuning
from cpool.model import PromptedModel
from cpool.optimise import make_optimizer
from cpool.settings import TrainSettings
from cpool.streams import Task

ROOT = Path(__file__).resolve().parents[2]
FULL, OURS, PEFT = "fine_tune_words", "cpool", "PEFT"
BATCH, LENGTH, STEPS, TEXTS = 4, 20, 3, 12
Step = Callable[[], object]


def has_steps(entry: Any) -> bool:
    """Return whether a row trains by steps through the model; a linear head has its features."""
    return bool(entry.method.trains) and entry.method.name != "linear_head"


def prepared(entry: Any, backbone: Backbone, task: Task, names: Any) -> PromptedModel:
    """Return a row's model in its first task."""
    torch.manual_seed(0)
    model: PromptedModel = entry.method.build(backbone)
    model.name_classes(names)
    model.begin_task(task.classes, batches=[batch_of(model, task)])
    return model


def batch_of(model: PromptedModel, task: Task, rows: int = BATCH) -> dict[str, torch.Tensor]:
    """Return training rows as the model reads them, queries included."""
    part = task.train.take(list(range(0, len(task.train), len(task.train) // rows))[:rows])
    loader = make_loader(
        part, model.backbone, rows, max_tokens=model.max_tokens(), around=model.passes.around
    )
    (batch,) = loader
    with torch.no_grad():
        return {**batch, "query": model.backbone.query(batch)}


def training_step(model: PromptedModel, train: TrainSettings, task: Task) -> Step:
    """Return a step of training on one batch."""
    model.train()
    batch, optimizer = batch_of(model, task), make_optimizer(model, train)

    def step() -> None:
        loss = model(batch, task=0).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), train.clip_norm)
        optimizer.step()

    return step


def words_step(model: Any, batch: dict[str, torch.Tensor]) -> Step:
    """Return a step of training on the words of completions."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 0.01)

    def step() -> None:
        loss = model(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def completions(
    task: Task, names: Any, backbone: Backbone
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return rows of a text, the name of its label, and the end, and the query of each text.

    Rows are padded on the right. A query is computed once for all epochs, as a data set of
    `CpoolForCausalLM.rows` has it.
    """
    method = PromptTuning(template="{{ text }}", length=LENGTH, init="random")
    model = CpoolForCausalLM.of(method.build(backbone))
    chosen = range(0, len(task.train), len(task.train) // BATCH)
    texts = [f"{task.train.x[i]}\nIntent:" for i in chosen][:BATCH]
    answers = [f" {names[task.train.y[i]].replace('_', ' ')}" for i in chosen][:BATCH]
    model.begin_task("intents")
    rows = model.rows(texts, answers)
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, fill: int) -> torch.Tensor:
        made = torch.full((len(rows), width), fill)
        for place, row in enumerate(rows):
            made[place, : len(row[key])] = torch.as_tensor(row[key])
        return made

    ids = padded("input_ids", 0)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        mask[place, : len(row["input_ids"])] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": padded("labels", -100)}
    return batch, torch.stack([row["query"] for row in rows])


def ours(backbone: Backbone) -> CpoolForCausalLM:
    """Return a prompt of this library that learns words, in its first task."""
    method = PromptTuning(template="{{ text }}", length=LENGTH, init="random")
    model = CpoolForCausalLM.of(method.build(backbone))
    model.begin_task("intents")
    return model


def theirs(section: dict[str, Any]) -> Any:
    """Return PEFT's prompt tuning of the same length on the same model."""
    model = AutoModelForCausalLM.from_pretrained(section["name"], dtype=section.get("dtype"))
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=LENGTH)
    return get_peft_model(model, config)


def tokens_added(model: PromptedModel, texts: Sequence[str]) -> float:
    """Return how many tokens a request has beside its text, template and prompt, on average."""
    learned = sum(branch.pool.length for branch in model.prompter or ())
    added = []
    for text in texts:
        whole, bare = model.prepare([text]), model.backbone.prepare([text])
        added.append(whole["input_ids"].shape[1] - bare["input_ids"].shape[1] + learned)
    return statistics.mean(added)


def learned(entry: Any, backbone: Backbone, task: Task, names: Any) -> Learner:
    """Return a row that has learned the task; what has steps does so on two rows a class, once."""
    torch.manual_seed(0)
    steps = has_steps(entry)
    epochs = {"epochs": 1} if steps else {}
    learner = Learner(entry.method.build(backbone), entry.train, quiet=True, **epochs)
    learner.model.name_classes(names)
    train = task.train
    if steps:
        rows = [i for c in task.classes for i in (train.y == c).nonzero()[0][:2].tolist()]
        train = train.take(rows)
    learner.fit_task(train)
    return learner


def requests(model: PromptedModel, texts: Sequence[str]) -> Step:
    """Return the work of answering texts one by one, with nothing kept from before."""
    model.eval()

    def answer() -> None:
        with torch.no_grad():
            for text in texts:
                model(model.prepare([text]))

    return answer


def alone(args: argparse.Namespace) -> None:
    """Do some steps of one row and print the peak memory; in a process of its own."""
    memory = PeakMemory(torch.device("cpu"), 0.005)
    with memory.measure():
        pass
    libraries = memory.peak
    experiment = read_experiment(args.experiment, args.set)
    backbone = open_backbone(experiment.backbone)
    task_of = open_stream(experiment, 0, backbone)
    task, names = task_of[0], task_of.class_names
    if args.alone in (OURS, PEFT):
        batch, query = completions(task, names, backbone)
        model = ours(backbone) if args.alone == OURS else None
        batch = {**batch, "query": query} if args.alone == OURS else batch
        if args.alone == PEFT:
            del backbone
            gc.collect()
            model = theirs(dict(experiment.backbone))
        step = words_step(model, batch)
    else:
        (entry,) = [e for e in experiment.methods if e.label == args.alone]
        step = training_step(prepared(entry, backbone, task, names), entry.train, task)
    with memory.measure():
        for _ in range(STEPS):
            step()
    print(json.dumps({"libraries": libraries, "peak": memory.peak}))


def memory(label: str, args: argparse.Namespace) -> int:
    """Return the peak memory of a row's steps in bytes, without that of the libraries."""
    command = [sys.executable, __file__, "--experiment", str(args.experiment), "--alone", label]
    command += [part for change in args.set for part in ("--set", change)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    said = json.loads(found.stdout.splitlines()[-1])
    return int(said["peak"] - said["libraries"])


def row_costs(
    experiment: Experiment, backbone: Backbone, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Measure each row of an experiment, by label.

    Args:
        experiment: what `args` names.
        backbone: of it.
        args: `experiment`, `set` and `rounds` of the command.
    """
    stream = open_stream(experiment, 0, backbone)
    task, names = stream[0], stream.class_names
    texts = list(task.test.x[:: max(1, len(task.test) // TEXTS)][:TEXTS])
    rows: dict[str, dict[str, Any]] = {}
    asks: dict[str, Step] = {}
    for entry in experiment.methods:
        learner = learned(entry, backbone, task, names)
        asks[entry.label] = requests(learner.model, texts)
        rows[entry.label] = {
            "tokens_added": tokens_added(learner.model, texts),
            "trainable_parameters": trained_parameters(learner.model, learner.trained),
            "stored_bytes": stored_bytes(learner.model),
        }
        if not has_steps(entry):
            rows[entry.label]["train_seconds"] = round(learner.train_seconds, 4)
    for label, seconds in measure(asks, 3).items():
        rows[label]["request_seconds"] = round(statistics.median(seconds) / len(texts), 5)
    asks.clear()
    works: dict[str, Step] = {}
    for entry in experiment.methods:
        if has_steps(entry):
            works[entry.label] = training_step(
                prepared(entry, backbone, task, names), entry.train, task
            )
            with FlopCounterMode(display=False) as counter:
                works[entry.label]()
            rows[entry.label]["flops_per_step"] = counter.get_total_flops()
            assert entry.train.batch_size == BATCH
            rows[entry.label]["steps"] = entry.train.epochs * -(-len(task.train) // BATCH)
    taken = measure(works, args.rounds)
    for label, ratio in ratios(taken, FULL).items():
        rows[label]["step_seconds"] = round(statistics.median(taken[label]), 4)
        rows[label]["step_over_full"] = round(ratio, 3)
    labels = list(works)
    works.clear()
    gc.collect()
    for label in labels:
        rows[label]["peak_bytes"] = memory(label, args)
        print(label, rows[label], file=sys.stderr)
    return rows


def words_costs(
    experiment: Experiment, backbone: Backbone, args: argparse.Namespace
) -> dict[str, Any]:
    """Measure our step that learns the words of completions, and PEFT's."""
    stream = open_stream(experiment, 0, backbone)
    batch, query = completions(stream[0], stream.class_names, backbone)
    words = {
        OURS: words_step(ours(backbone), {**batch, "query": query}),
        PEFT: words_step(theirs(dict(experiment.backbone)), batch),
    }
    over_peft = ratios(measure(words, 3 * args.rounds), PEFT)[OURS]
    print(f"words: {over_peft:.3f} of PEFT", file=sys.stderr)
    words.clear()
    gc.collect()
    both = {label: memory(label, args) for label in (OURS, PEFT)}
    return {"step_over_peft": round(over_peft, 3), "peak_bytes": both}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "benchmarks" / "experiments" / "hard-vs-soft.toml"
    parser.add_argument("--experiment", type=Path, default=default)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peft", action="store_true", help="without PEFT's step")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.alone:
        alone(args)
        return
    experiment = read_experiment(args.experiment, args.set)
    backbone = open_backbone(experiment.backbone)
    found = {
        "experiment": experiment.name,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
        "rounds": args.rounds,
        "batch_size": BATCH,
        "rows": row_costs(experiment, backbone, args),
    }
    if not args.no_peft:
        found["words"] = words_costs(experiment, backbone, args)
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
