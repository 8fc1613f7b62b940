"""Self-study: what a model asks itself about a text, and answers while it reads it."""

from collections.abc import Sequence
from typing import Any

import torch

from cpool.backbones import Backbone
from cpool.distil.comparing import text_prompts
from cpool.errors import ConfigError, DataError
from cpool.language import generate
from cpool.seeding import seeded
from cpool.settings import is_whole

__all__ = ["OPENERS", "self_study"]

OPENERS = (
    "\n\nQuestion: What",
    "\n\nQuestion: Who",
    "\n\nQuestion: Which",
    "\n\nQuestion: Where",
    "\n\nQuestion: When",
    "\n\nQuestion: How",
)


def self_study(
    backbone: Backbone,
    text: str,
    n: int,
    *,
    chunk: int = 128,
    words: int = 32,
    temperature: float = 0.8,
    openers: Sequence[str] = OPENERS,
    batch_size: int = 16,
    seed: int = 0,
) -> list[str]:
    """Return `n` questions with answers, which the model makes up while it reads the text.

    The text is read in chunks, so that every part of it is asked about. A question is sampled, the
    answer to it is the most probable one. Nobody checks either: they are what a distilled slot is
    trained to go on with in the same way, not truths (S. Eyuboglu et al., *Cartridges*, 2025,
    arXiv:2506.06266, section 4.1).

    Args:
        backbone: a frozen decoder with its output embedding and a tokenizer.
        text: what is read.
        n: how many rows to make.
        chunk: tokens of the text that are read at a time.
        words: most tokens of a question, and of an answer.
        temperature: of the questions.
        openers: how questions begin, taken in turn.
        batch_size: rows that are made at a time.
        seed: of the sampling.

    Raises:
        ConfigError: numbers below 1, or no openers.
        DataError: a text without words.
    """
    for name, value in (("n", n), ("chunk", chunk), ("words", words), ("batch_size", batch_size)):
        if not is_whole(value) or value < 1:
            raise ConfigError(
                expected=f"{name} of at least 1", got=repr(value), remedy="Give a whole number."
            )
    if not openers or temperature <= 0:
        raise ConfigError(
            expected="at least one opener, and a temperature above 0",
            got=f"{len(openers)} openers, temperature {temperature}",
            remedy="Leave them out for the defaults.",
        )
    tokenizer = backbone.processor
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise DataError(expected="a text with words", got=repr(text), remedy="Give some.")
    pieces = [tokenizer.decode(ids[at : at + chunk]) for at in range(0, len(ids), chunk)]
    made: list[str] = []
    with seeded(seed, "self-study"):
        for number, piece in enumerate(pieces):
            # As many rows of each piece, the first ones get what is left over.
            share = n // len(pieces) + (number < n % len(pieces))
            for start in range(0, share, batch_size):
                first = len(made)
                size = min(batch_size, share - start)
                some = [openers[(first + i) % len(openers)] for i in range(size)]
                made += _rows(backbone, piece, some, words, temperature)
    return made


@torch.no_grad()
def _rows(
    backbone: Backbone, piece: str, openers: list[str], words: int, temperature: float
) -> list[str]:
    read = text_prompts(backbone, piece)

    def continued(rows: list[str], **options: Any) -> list[str]:
        batch = backbone.prepare(rows)
        ids = generate(backbone, batch, read, max_new_tokens=words, **options)
        said = backbone.processor.batch_decode(ids, skip_special_tokens=True)
        # A line is an answer; what a small model adds after it is another question.
        return [
            row + (line.strip("\n").split("\n")[0]) for row, line in zip(rows, said, strict=True)
        ]

    asked = continued(openers, do_sample=True, temperature=temperature, top_k=0)
    return continued([f"{question}\nAnswer:" for question in asked], do_sample=False)
