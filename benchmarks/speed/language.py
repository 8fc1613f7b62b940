"""Time label scores and mixed prompts of a language model, as ratios in one run.

    python -m benchmarks.smollm2
    python benchmarks/speed/language.py [--model build/smollm2-135m] [--out FILE.json] [--only PART]

Scores: the pass over texts and all labels against one pass over the texts alone (both with the
scores of the words after them), for 7 and for 77 labels, and against a pass for each label. Texts
have 64 tokens, prompts 20, labels are names of intents. Sharing: 16 texts behind 400 tokens of
examples, run once for all or in each row. A prompt that all rows have: scores of 7 labels and the
gradient of the prompt, the prompt in each row against run once. Competing: a step of training in
the fifth task of fifteen labels, all labels known run against those of the task. Generation: 16
rows with prompts of their own in one batch, against one row after another, greedy; the words must
be the same. One thread, about four minutes; `--only` measures one part and leaves the others in
the file.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from ratio import measure, ratios

from cpool.backbones import Backbone, load_backbone
from cpool.inject import encode
from cpool.language import generate, label_trie, score_labels
from cpool.methods import PromptTuning
from cpool.prompter import Prompts

VERBS = (
    "book",
    "cancel",
    "change",
    "find",
    "check",
    "open",
    "close",
    "lost",
    "order",
    "pay",
    "report",
)
THINGS = (
    "a flight",
    "my card",
    "the account",
    "a table for two",
    "the weather",
    "my payment",
    "a fee",
)
WORD = " word"
ONE = "one pass, no labels"


def prompts_of(backbone: Backbone, rows: int, length: int) -> Prompts:
    """Return random prompts, one a row, at the scale of the token embeddings."""
    table = backbone.plain_model.get_input_embeddings().weight
    tokens = table.std() * torch.randn(rows, length, backbone.hidden_size)
    return Prompts(tokens, {}, torch.zeros(()), {})


@torch.no_grad()
def scoring(backbone: Backbone, rows: int, rounds: int) -> dict[str, float]:
    """Return times of label scores over one pass that scores the next word alone."""
    names = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
    few, many = (label_trie(part, backbone.processor) for part in (names[:7], names))
    batch = backbone.prepare([WORD * 64] * rows)
    prompts = prompts_of(backbone, rows, 20)

    def plain() -> None:
        state = encode(backbone, batch, prompts).hidden_states[-1][:, -1]
        backbone.word_logits(state).log_softmax(dim=-1)

    def apart() -> None:
        for name in names[:7]:
            score_labels(backbone, batch, prompts, label_trie([name], backbone.processor))

    works = {
        ONE: plain,
        "7 labels": lambda: score_labels(backbone, batch, prompts, few),
        "77 labels": lambda: score_labels(backbone, batch, prompts, many),
        "7 labels, a pass each": apart,
    }
    return {name: round(value, 2) for name, value in ratios(measure(works, rounds), ONE).items()}


@torch.no_grad()
def sharing(backbone: Backbone, rows: int, rounds: int) -> dict[str, float]:
    """Return times of label scores behind 400 tokens of solved examples, over no examples."""
    trie = label_trie([f"{verb} {THINGS[0]}" for verb in VERBS[:7]], backbone.processor)
    texts = [f" item number {row} is what I want to talk about now" for row in range(rows)]
    plain = backbone.prepare(texts)
    batch = backbone.prepare(texts, around=(WORD * 400, ""))
    # Prompts that are none keep the batch as it is.
    none = Prompts(None, {}, torch.zeros(()), {})
    works = {
        "no examples": lambda: score_labels(backbone, plain, none, trie),
        "examples run once": lambda: score_labels(backbone, batch, None, trie),
        "examples in each row": lambda: score_labels(backbone, batch, none, trie),
    }
    found = ratios(measure(works, rounds), "no examples")
    return {name: round(value, 2) for name, value in found.items()}


def learning(backbone: Backbone, rounds: int) -> list[dict[str, float]]:
    """Return how much faster a step of learning is whose prompt is run once for all rows."""
    trie = label_trie([f"{verb} {THINGS[0]}" for verb in VERBS[:7]], backbone.processor)
    found = []
    for rows, length in ((4, 20), (4, 100), (16, 20), (16, 100)):
        batch = backbone.prepare([f"item number {row}" + WORD * 12 for row in range(rows)])
        shared = prompts_of(backbone, 1, length).tokens
        assert shared is not None

        def step(
            copies: int,
            prompt: torch.Tensor = shared,
            batch: dict[str, torch.Tensor] = batch,
        ) -> None:
            prompt = prompt.detach().requires_grad_()
            # Copies may be slots that are each to learn, so they are run in their rows.
            own = Prompts(prompt.repeat(copies, 1, 1), {}, torch.zeros(()), {})
            score_labels(backbone, batch, own, trie).logsumexp(dim=1).sum().backward()

        works = {"once": partial(step, 1), "in each row": partial(step, rows)}
        times = ratios(measure(works, rounds), "once")
        found.append(
            {"rows": rows, "tokens": length, "times_faster": round(times["in each row"], 2)}
        )
    return found


def competing(backbone: Backbone, rows: int, rounds: int) -> dict[str, float]:
    """Return times of a step in the fifth task of 15 labels, over that with its own labels."""
    names = [f"{verb} {thing}" for verb in VERBS for thing in THINGS][:75]
    model = PromptTuning(labels=tuple(names), length=20).build(backbone)
    for task in range(5):
        model.begin_task(range(15 * task, 15 * task + 15))
    batch = model.prepare([f"item number {row}" + WORD * 12 for row in range(rows)])
    batch["labels"] = torch.arange(60, 60 + rows)

    def step(whole: bool) -> None:
        output = model.answer(batch, 4, whole=whole)
        assert output.loss is not None
        output.loss.backward()  # type: ignore[no-untyped-call]

    works = {"its 15 labels": partial(step, False), "75 labels known": partial(step, True)}
    found = ratios(measure(works, rounds), "its 15 labels")
    return {name: round(value, 2) for name, value in found.items()}


@torch.no_grad()
def generation(backbone: Backbone, rows: int, new: int) -> dict[str, float]:
    """Return how much faster a mixed batch is than its rows one after another."""
    texts = [f"Tell me about item number {row}, please." for row in range(rows)]
    prompts, batch = prompts_of(backbone, rows, 20), backbone.prepare(texts)
    options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None}
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    for _ in range(3):
        started = time.perf_counter()
        made = generate(backbone, batch, prompts, **options)
        seconds["together"].append(time.perf_counter() - started)
        started = time.perf_counter()
        for row, text in enumerate(texts):
            assert prompts.tokens is not None
            own = prompts._replace(tokens=prompts.tokens[row : row + 1])
            alone = generate(backbone, backbone.prepare([text]), own, **options)
            if alone[0].tolist() != made[row].tolist():
                raise SystemExit(f"row {row} differs from what it gets alone")
        seconds["apart"].append(time.perf_counter() - started)
    together, apart = (min(seconds[name]) for name in ("together", "apart"))
    return {"rows": rows, "new_tokens": new, "times_faster": round(apart / together, 2)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="build/smollm2-135m")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="the part to measure; needs the FILE of the others")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = load_backbone(args.model)
    parts: dict[str, Callable[[], object]] = {
        "scoring_over_one_pass": lambda: scoring(backbone, args.rows, args.rounds),
        "sharing_over_no_examples": lambda: sharing(backbone, 16, args.rounds),
        "prompt_run_once": lambda: learning(backbone, args.rounds),
        "competing_labels": lambda: competing(backbone, args.rows, args.rounds),
        "generation": lambda: generation(backbone, 16, 12),
    }
    if args.only and (args.only not in parts or not (args.out and args.out.exists())):
        raise SystemExit(f"--only one of {', '.join(parts)}, with the --out of a whole run")
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "model": Path(args.model).name,
    }
    if args.only:
        before = json.loads(args.out.read_text(encoding="utf-8"))
        told = {name: (before.get(name), value) for name, value in result.items()}
        if any(was != now for was, now in told.values()):
            raise SystemExit(f"the file is of another machine or model: {told}")
        result = before
    result |= {n: part() for n, part in parts.items() if args.only in (None, n)}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
