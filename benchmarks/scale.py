"""Unit costs of a pool that grows, and what they come to at 10⁶ slots, 10³ tasks and a 70B model.

    python -m benchmarks.scale            measures (about five minutes, one thread), writes the page

Measured at the width of ViT-B (768), ten tokens a slot, a slot a task: what a further task costs
when there are 10, 100 and 1,000 already, in memory, on the disk and in time. What is computed from
that, and from sizes of models, is named as computed.
"""

import gc
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cpool._io import write_json
from cpool.checkpoint import load_state, save_state
from cpool.exact import forget, merge
from cpool.experiment.environment import describe_environment
from cpool.heads import ExpertHead, LinearHead
from cpool.initialisers import uniform
from cpool.model import PromptedModel
from cpool.policies import GaussianRouter, TopK
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "scale.json"
PAGE = ROOT / "docs" / "pages" / "many-machines.md"
WIDTH, TOKENS, CLASSES, BATCH = 768, 10, 2, 64
COUNTS = (10, 100, 1_000)
SLOTS = (10_000, 100_000, 1_000_000)


class Stub:
    """Stands for a frozen model where nothing is run through it."""

    fingerprint, name, device = "none", "none", torch.device("cpu")

    def spec(self) -> dict[str, Any]:
        """Return nothing that a checkpoint would compare."""
        return {}


class Bare(PromptedModel):
    """The parts of a prompted model that grow, without a frozen model."""

    def __init__(self, router: str) -> None:
        torch.nn.Module.__init__(self)
        policy = GaussianRouter(WIDTH, forgettable=router == "kept")
        pool = PromptPool(1, TOKENS, WIDTH, uniform())
        branch = Branch("prompt", pool, policy, EmbeddingSite(), per_task=1)
        self._frozen = (Stub(),)  # type: ignore[assignment]
        self.head = ExpertHead(WIDTH, lambda: LinearHead(WIDTH))
        self.prompter, self.trunk, self.method = Prompter([branch]), None, None
        self.rules, self.mask, self.tasks, self.removed = torch.nn.ModuleList(), "task", [], []
        self.readout = "query"


def grow(model: Bare, rows: torch.Tensor) -> None:
    """Let a task come and go, its training left out."""
    task = len(model.tasks)
    model.prompter.begin_task(task)
    model.head.begin_task(range(CLASSES * task, CLASSES * (task + 1)))
    model.tasks.append(tuple(range(CLASSES * task, CLASSES * (task + 1))))
    (branch,) = model.prompter
    branch.pool.mark_trained(torch.tensor([[task]]))
    model.prompter.freeze_grown()
    branch.policy.end_task(rows, task)


def timed(work: Any, *words: Any, times: int = 5) -> float:
    """Return the median of the processor's seconds of some calls; other work hardly changes it."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        work(*words)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


@torch.no_grad()
def tasks() -> list[dict[str, Any]]:
    """Measure what a task costs among others."""
    rows, query = torch.randn(100, WIDTH), torch.randn(BATCH, WIDTH)
    model, found = Bare("sums"), []
    for count in COUNTS:
        while len(model.tasks) < count - 5:
            grow(model, rows)
        growing = timed(grow, model, rows)
        (branch,) = model.prompter
        model.eval()
        with tempfile.TemporaryDirectory() as folder:
            first = timed(save_state, model, folder, {}, times=1)
            again = timed(save_state, model, folder, {}, times=3)
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            loading = timed(load_state, Bare("sums"), folder, times=1)
        found.append(
            {
                "tasks": count,
                "grow_seconds": growing,
                "route_seconds_a_sample": timed(branch, query, None, BATCH) / BATCH,
                "save_seconds": first,
                "save_again_seconds": again,
                "load_seconds": loading,
                "bytes": size,
                "merge_seconds": timed(merge, model, model, times=1),
            }
        )
        print(found[-1], flush=True)
    kept = Bare("kept")
    for _ in range(100):
        grow(kept, rows)
    found[1]["forget_seconds"] = timed(forget, kept, 50, times=1)
    found[1]["kept_bytes"] = sum(b.numel() * b.element_size() for b in kept.prompter.buffers())
    return found


@torch.no_grad()
def slots() -> list[dict[str, Any]]:
    """Measure the choice of five slots among many, exact and by FAISS."""
    found: list[dict[str, Any]] = []
    query = torch.randn(BATCH, WIDTH)
    for count in SLOTS:
        row: dict[str, Any] = {"slots": count}
        for search in ("exact", "faiss"):
            policy = TopK(WIDTH, k=5, search=search)
            policy.grow(count)
            policy.eval()
            policy(query)  # builds the index
            row[f"{search}_seconds_a_sample"] = timed(policy, query, times=3) / BATCH
            del policy
            gc.collect()
        row["key_bytes"] = 4 * count * WIDTH
        row["value_bytes"] = 4 * count * TOKENS * WIDTH
        found.append(row)
        print(row, flush=True)
    return found


def sizes() -> list[dict[str, Any]]:
    """Compute what a slot weighs for models of several sizes, in float32."""
    models = {
        "ViT-B/16": (768, 12, 768, 86e6),
        "SmolLM2-135M": (576, 30, 192, 135e6),
        "Llama-3 8B": (4096, 32, 1024, 8e9),
        "Llama-3 70B": (8192, 80, 1024, 70e9),
    }
    made = []
    for name, (hidden, layers, kv, parameters) in models.items():
        prompt, prefix = 4 * 20 * hidden, 4 * 20 * 2 * layers * kv
        made.append(
            {
                "model": name,
                "weights_bytes": 2 * parameters,
                "prompt_bytes": prompt,
                "prefix_bytes": prefix,
                "router_bytes": 8 * hidden * hidden,
                "gradient_bytes_a_step": {"prompt": prompt, "prefix": prefix},
                "feature_bytes_a_sample": 4 * hidden,
                "pass_flops_100_tokens": 2 * parameters * 100,
            }
        )
    return made


def main() -> None:
    """Measure all and write results and page."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {
        "environment": describe_environment("cpu"),
        "width": WIDTH,
        "tokens": TOKENS,
        "tasks": tasks(),
        "slots": slots(),
        "models": sizes(),
    }
    write_json(RESULT, result)
    write_page(result)


def amount(size: float) -> str:
    """Return bytes as people read them.

    >>> amount(30_720), amount(3.1e9)
    ('31 kB', '3.1 GB')
    """
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            value = size / step
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size:.0f} B"


def span(seconds: float) -> str:
    """Return a time as people read it.

    >>> span(0.00002), span(0.25), span(12.3)
    ('20 µs', '250 ms', '12 s')
    """
    for unit, step in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= step:
            value = seconds / step
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def tables(result: dict[str, Any]) -> str:
    """Return the tables of the page."""
    lines = [
        "| Tasks there are | a further one | routing a sample | first save | save again | load | "
        "merge with as many | on the disk |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["tasks"]:
        times = ("grow", "route", "save", "save_again", "load", "merge")
        keys = [f"{name}_seconds" + ("_a_sample" if name == "route" else "") for name in times]
        cells = [span(row[key]) for key in keys]
        lines.append(f"| {row['tasks']:,} | {' | '.join(cells)} | {amount(row['bytes'])} |")
    kept = result["tasks"][1]
    lines += [
        "",
        f"With `forgettable`, the router of 100 tasks keeps {amount(kept['kept_bytes'])}, and one "
        f"is taken out in {span(kept['forget_seconds'])}.",
        "",
        "| Slots | exact choice of five, a sample | FAISS | keys | values |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result["slots"]:
        times = [span(row[f"{search}_seconds_a_sample"]) for search in ("exact", "faiss")]
        bytes_ = [amount(row["key_bytes"]), amount(row["value_bytes"])]
        lines.append(f"| {row['slots']:,} | {' | '.join([*times, *bytes_])} |")
    lines += [
        "",
        "| Model (computed) | weights, 16 bit | a prompt of 20 tokens | a prefix of 20, all "
        "layers | 10³ prefixes | 10⁶ prompts | travels a sample and step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["models"]:
        cells = [
            row["weights_bytes"],
            row["prompt_bytes"],
            row["prefix_bytes"],
            1e3 * row["prefix_bytes"],
            1e6 * row["prompt_bytes"],
            row["feature_bytes_a_sample"],
        ]
        lines.append(f"| {row['model']} | {' | '.join(map(amount, cells))} |")
    return "\n".join(lines)


def write_page(result: dict[str, Any]) -> None:
    """Put the tables between the marks on the page."""
    start, end = "<!-- scale: begin -->\n", "\n<!-- scale: end -->"
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(start)
    PAGE.write_text(head + start + tables(result) + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
