"""A long hard prompt in a few soft tokens: how far they agree, and what a request saves.

    python -m benchmarks.smollm2                the model, once
    python -m benchmarks.compression            about 40 minutes of one core; writes as it goes

The hard prompt shows two solved examples of each of SNIPS's seven intents, on
SmolLM2-135M-Instruct. `distil` trains n tokens at the embedding, or a prefix of n, so
that the model goes on with other training queries as it does behind the whole prompt; no label is
read but those that the model itself names. Measured on test queries: how often slot and prompt name
the same intent, how often it is the right one, and the time of a request. Beside it: no prompt, and
the first tokens of the prompt, as many as the slot has.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.by_seed import measure_seeds
from cpool import load_stream
from cpool.backbones import Backbone
from cpool.distil import distil
from cpool.distil.comparing import text_prompts
from cpool.language import label_trie, readable, score_labels
from cpool.prompter import Prompts

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "compression.json"
LENGTHS, SITES, SEEDS = (8, 32), ("tokens", "prefix"), 3
ROWS, EPOCHS, BATCH = 98, 4, 8
ASK = "{}\nIntent:"


def answers(
    backbone: Backbone, texts: list[str], prompts: Prompts | None, names: list[str]
) -> np.ndarray:
    """Return which name the model finds most probable after each text, and a prompt."""
    trie = label_trie(names, backbone.processor)
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            batch = backbone.prepare([ASK.format(x) for x in texts[start : start + BATCH]])
            found += score_labels(backbone, batch, prompts, trie).argmax(dim=1).tolist()
    return np.array(found)


def milliseconds(
    backbone: Backbone, text: str, ways: dict[str, tuple[str, Prompts | None]], names: list[str]
) -> dict[str, float]:
    """Return the median time of one request each way, in turns: words read anew, or a slot."""
    trie = label_trie(names, backbone.processor)
    took: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(9):
            for name, (before, prompts) in ways.items():
                batch = backbone.prepare([ASK.format(text)], around=(before, ""))
                start = time.perf_counter()
                score_labels(backbone, batch, prompts, trie)
                took[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(times) for name, times in took.items()}


def measure(backbone: Backbone, seed: int) -> list[dict[str, Any]]:
    """Return one row for each way of reading the prompt."""
    stream = load_stream(
        "snips", tasks=1, seed=seed, validation=0, train_per_class=16, test_per_class=20
    )
    task, names = stream[0], [readable(name) for name in stream.class_names]
    shown = [i for c in task.classes for i in (task.train.y == c).nonzero()[0][:2].tolist()]
    shown = np.random.default_rng(seed).permutation(shown).tolist()
    solved = [f"{ASK.format(task.train.x[i])} {names[task.train.y[i]]}" for i in shown]
    prompt = "\n\n".join(solved) + "\n\n"
    rest = [str(x) for i, x in enumerate(task.train.x) if i not in set(shown)][:ROWS]
    tests, right = [str(x) for x in task.test.x], task.test.y
    whole = text_prompts(backbone, prompt)
    said = answers(backbone, rest, whole, names)
    rows = [f"{ASK.format(x)} {names[c]}" for x, c in zip(rest, said, strict=True)]
    ids = backbone.processor.encode(prompt, add_special_tokens=False)
    same = answers(backbone, tests, whole, names)
    ways: dict[str, tuple[int, tuple[str, Prompts | None], np.ndarray, float]] = {
        "whole prompt": (len(ids), (prompt, None), same, 0.0),
        "no prompt": (0, ("", None), answers(backbone, tests, None, names), 0.0),
    }
    for length in LENGTHS:
        first = text_prompts(backbone, backbone.processor.decode(ids[:length]))
        words = backbone.processor.decode(ids[:length])
        found = answers(backbone, tests, first, names)
        ways[f"first {length} tokens"] = (length, (words, None), found, 0.0)
        for site in SITES:
            start = time.perf_counter()
            slot = distil(
                backbone, prompt, rows, length=length, site=site, epochs=EPOCHS, seed=seed
            )
            seconds = time.perf_counter() - start
            found = answers(backbone, tests, slot.prompts(), names)
            ways[f"{length} {site}"] = (length, ("", slot.prompts()), found, seconds)
    times = milliseconds(backbone, tests[0], {k: v[1] for k, v in ways.items()}, names)
    made = []
    for name, (tokens, _, found, seconds) in ways.items():
        made.append(
            {
                "way": name,
                "seed": seed,
                "tokens": tokens,
                "same": float((found == same).mean()),
                "accuracy": float((found == right).mean()),
                "milliseconds": times[name],
                "train_seconds": seconds,
            }
        )
        print(json.dumps(made[-1]), flush=True)
    return made


if __name__ == "__main__":
    settings = {"rows": ROWS, "epochs": EPOCHS, "batch_size": BATCH}
    measure_seeds(measure, SEEDS, OUT, settings, __doc__)
