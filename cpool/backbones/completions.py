"""From texts and what shall follow them to token ids: completions end, and are never cut."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpool.backbones import text
from cpool.errors import BackboneError, DataError

__all__ = ["IGNORED", "completion_ids", "continued", "end_of", "gap", "prepare_completions"]

# What fills rows of completions that are shorter than the longest, as in transformers.
IGNORED = -100

# What stands in front of words as their tokens are taken: some tokenizers put a space of their own
# in front of whatever begins.
_CONTEXT = "Label:"


def prepare_completions(
    texts: Any,
    completions: Sequence[str],
    tokenizer: Any,
    max_tokens: int | None,
    around: text.Around = ("", ""),
    *,
    apart: bool = False,
) -> dict[str, Tensor]:
    """Tokenise texts as `cpool.backbones.text.prepare` does, and what shall follow each.

    Args:
        texts: a sequence of B non-empty strings.
        completions: what follows each, not empty; the end token is added, and a space in front
            (`gap`).
        tokenizer: of a language model.
        max_tokens: of a text and its completion together: where they are longer, the text is cut,
            and counted as any text that is cut. The end token takes none, nothing is read after it.
        around: words before and after each text, never cut.
        apart: the completion stands in a row of its own, so that each may be this long.

    Returns:
        What `prepare` returns of the texts alone, and "completion" [B L]: the tokens of each
        completion and its end, filled by −100 on the right.

    Raises:
        DataError: other numbers of texts and completions, an empty one, or completions that leave
            no room for a text.
        BackboneError: a tokenizer without an end token.
    """
    texts, said = text.checked(texts), list(completions)
    if len(texts) != len(said):
        raise DataError(
            expected=f"a completion for each of {len(texts)} texts",
            got=f"{len(said)}",
            remedy="Give both, in the same order.",
        )
    pairs = around(texts) if callable(around) else [around] * len(texts)
    rows = [
        # In a row of its own a completion always begins as words do.
        completion_ids(tokenizer, one, before="" if apart else row + after)
        for row, one, (_, after) in zip(texts, said, pairs, strict=True)
    ]
    taken = [len(ids) - 1 for ids in rows]
    _check_room(said, taken, tokenizer, max_tokens, apart)
    batch = text.prepare(texts, tokenizer, max_tokens, lambda _: pairs, None if apart else taken)
    filled = torch.full((len(rows), max(map(len, rows))), IGNORED)
    for row, ids in enumerate(rows):
        filled[row, : len(ids)] = torch.tensor(ids)
    return {**batch, "completion": filled}


def _check_room(
    said: list[str], taken: list[int], tokenizer: Any, limit: int | None, apart: bool
) -> None:
    """Refuse completions beside which not even a token of a text fits."""
    if limit is None:
        return
    room = limit if apart else limit - 1 - int(tokenizer.num_special_tokens_to_add())
    wrong = [i for i, length in enumerate(taken) if length > room]
    if wrong:
        first = wrong[0]
        raise DataError(
            expected=f"completions of at most {max(room, 0)} tokens, so that a text fits beside "
            "them and the prompt",
            got=f"{len(wrong)} longer ones; the first has {taken[first]}: {said[first]!r}"[:200],
            remedy="Shorten or drop them: a completion is never cut.",
        )


def completion_ids(tokenizer: Any, completion: str, before: str = "") -> list[int]:
    """Return the tokens that a completion adds to a text, and the end token.

    Args:
        tokenizer: of a language model.
        completion: what follows.
        before: what it follows.

    Raises:
        DataError: an empty completion, or none of its words has a token.
        BackboneError: no end token.
    """
    own = isinstance(completion, str) and completion.strip()
    ids = continued(gap(before, completion) + completion, tokenizer) if own else []
    if not ids:
        raise DataError(
            expected="completions with words",
            got=repr(completion),
            remedy="Drop the row, or say what shall follow.",
        )
    return [*ids, end_of(tokenizer)]


def end_of(tokenizer: Any) -> int:
    """Return the token that ends a completion, in training and when words are generated.

    Raises:
        BackboneError: the tokenizer has none.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise BackboneError(
            expected="a tokenizer with an end token, which says where a completion ends",
            got=f"{type(tokenizer).__name__} without one",
            remedy="Set tokenizer.eos_token, and save the tokenizer beside the model.",
        )
    return int(end)


def gap(before: str, completion: str) -> str:
    r"""Return the space between a text and its completion, unless one of them brings its own.

    >>> gap("The capital of France is", "Paris"), gap("Answer:\n", "Paris"), gap("a", "\tb")
    (' ', '', '')
    """
    return "" if before[-1:].isspace() or completion[:1].isspace() else " "


def continued(words: str, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that words add to a text before them."""
    start = tokenizer.encode(_CONTEXT, add_special_tokens=False)
    whole = tokenizer.encode(_CONTEXT + words, add_special_tokens=False)
    if whole[: len(start)] == start:
        return tuple(whole[len(start) :])
    return tuple(tokenizer.encode(words, add_special_tokens=False))
