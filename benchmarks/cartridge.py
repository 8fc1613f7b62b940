"""A document in a slot: how much of it a short prefix answers for, and what that saves.

    python -m benchmarks.smollm2                    the model, once
    python -m benchmarks.cartridge                  about an hour of one core; writes results

The document is made up, so that no model knows it: one fact a sentence, drawn by the seed. The
model asks itself about it (`self_study`), and a prefix is trained to go on as the whole text does
(`distil`). Then it is asked for every fact, and the right word has to be the most probable of six
of its kind, so that guessing finds a sixth. Beside it: no text, the first words of the text alone
(as many as the slot has), and the whole text.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cpool import load_backbone
from cpool._io import write_json
from cpool.backbones import Backbone
from cpool.distil import agreement, distil, self_study
from cpool.distil.comparing import text_prompts
from cpool.language import score_labels
from cpool.language.trie import label_trie
from cpool.prompter import Prompts

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "cartridge.json"
MODEL = "build/smollm2-135m"
FACTS = (
    ("The ship is painted", ("green", "red", "blue", "white", "black", "yellow")),
    ("The captain comes from", ("Norway", "Spain", "China", "Brazil", "Canada", "Egypt")),
    ("The cook always serves", ("soup", "rice", "fish", "bread", "eggs", "beans")),
    ("The cargo is mostly", ("coffee", "salt", "wood", "cotton", "sugar", "copper")),
    ("The ship's cat is called", ("Oscar", "Felix", "Luna", "Tiger", "Ruby", "Max")),
    ("The engine was built in", ("Berlin", "London", "Turin", "Boston", "Tokyo", "Oslo")),
    ("The doctor plays the", ("flute", "drum", "violin", "piano", "guitar", "horn")),
    ("The flag shows a", ("star", "lion", "crown", "wheel", "tree", "horse")),
    ("The first stop is", ("Lisbon", "Cairo", "Dublin", "Athens", "Havana", "Lima")),
    ("The mate is afraid of", ("spiders", "storms", "snakes", "ghosts", "dogs", "sharks")),
    ("The owner collects", ("coins", "stamps", "clocks", "maps", "shells", "swords")),
    ("The youngest sailor was a", ("farmer", "baker", "teacher", "tailor", "miner", "painter")),
)
ASK = "\n\nAs the log says: {}"


class Question(NamedTuple):
    """The beginning of a sentence, how it may go on, and how it does in the document."""

    asked: str
    choices: tuple[str, ...]
    answer: str


def document(seed: int) -> tuple[str, list[Question]]:
    """Return a text of one fact a sentence, and a question for each; facts are drawn by `seed`."""
    rng = np.random.default_rng(seed)
    answers = [str(rng.choice(choices)) for _, choices in FACTS]
    pairs = list(zip(FACTS, answers, strict=True))
    text = "The log of the Meridian. " + " ".join(f"{a} {word}." for (a, _), word in pairs)
    return text, [Question(ASK.format(a), choices, word) for (a, choices), word in pairs]


@torch.no_grad()
def accuracy(backbone: Backbone, questions: Sequence[Question], prompts: Prompts | None) -> float:
    """Return the share of questions whose right word is the most probable of its six choices."""
    right = 0
    for question in questions:
        trie = label_trie(question.choices, backbone.processor)
        scores = score_labels(backbone, backbone.prepare([question.asked]), prompts, trie)
        right += question.choices[int(scores.argmax())] == question.answer
    return right / len(questions)


@torch.no_grad()
def milliseconds(
    backbone: Backbone, question: Question, ways: dict[str, tuple[str, Prompts | None]]
) -> dict[str, float]:
    """Return the median time of one question each way, measured in turns.

    Args:
        backbone: the model.
        question: what is asked.
        ways: name → words that are read before it at every request, and a slot.
    """
    trie = label_trie(question.choices, backbone.processor)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(15):
        for name, (before, prompts) in ways.items():
            batch = backbone.prepare([question.asked], around=(before, ""))
            start = time.perf_counter()
            score_labels(backbone, batch, prompts, trie)
            took[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(times)) for name, times in took.items()}


def measure(
    backbone: Backbone, seed: int, length: int, rows: int, epochs: int, lr: float
) -> list[dict[str, Any]]:
    """Return what each way of reading answers, for one document."""
    text, questions = document(seed)
    tokenizer = backbone.processor
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = time.perf_counter()
    studied = self_study(backbone, text, rows + rows // 4, seed=seed)
    study_seconds = time.perf_counter() - start
    # Every fifth row is held out, so that both parts are about all of the text.
    held = studied[::5]
    trained = [row for number, row in enumerate(studied) if number % 5]
    start = time.perf_counter()
    slot = distil(backbone, text, trained, length=length, epochs=epochs, lr=lr, seed=seed)
    seconds = time.perf_counter() - start
    teacher = text_prompts(backbone, text)
    untrained = distil(backbone, text, trained[:1], length=length, epochs=1, lr=1e-12)
    ways: dict[str, tuple[str, Prompts | None, int]] = {
        "no text": ("", None, 0),
        "first words": (tokenizer.decode(ids[:length]), untrained.prompts(), length),
        "slot": ("", slot.prompts(), length),
        "whole text": (text, teacher, len(ids)),
    }
    in_time = {name: (before, None) for name, (before, _, _) in ways.items()}
    times = milliseconds(backbone, questions[0], {**in_time, "slot": ("", slot.prompts())})
    found = []
    for name, (_, prompts, tokens) in ways.items():
        apart = agreement(backbone, held, teacher, prompts)
        found.append(
            {
                "way": name,
                "seed": seed,
                "tokens": tokens,
                "accuracy": accuracy(backbone, questions, prompts),
                "divergence": apart.divergence,
                "same_next_word": apart.same,
                "milliseconds": times[name],
            }
        )
        print(json.dumps(found[-1]), flush=True)
    found[2] |= {
        "study_seconds": study_seconds,
        "train_seconds": seconds,
        "losses": list(slot.losses),
        "bytes": slot.values.numel() * 4,
    }
    return found


def main() -> None:
    """Measure for each seed and write all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(args.model)
    found = []
    for seed in range(args.seeds):
        found += measure(backbone, seed, args.length, args.rows, args.epochs, args.lr)
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    # All seeds or nothing: a part of them would look like the whole.
    write_json(args.out, {"schema": 1, "settings": settings, "rows": found})


if __name__ == "__main__":
    main()
