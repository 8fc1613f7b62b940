"""Completions: a text, what shall follow it, and what of it may be read to choose a prompt."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones.completions import completion_ids
from cpool.backbones.text import checked
from cpool.errors import DataError
from cpool.interop.transformers.model import Batches, CpoolModel

__all__ = ["Asked", "asked", "batch_of", "completion_rows"]


def completion_rows(
    model: CpoolModel, texts: Sequence[str], completions: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Return rows of one length: ids, mask, labels, and queries where a prompt is chosen by them.

    They are what a learner makes of the same texts and completions: the words of the template stand
    around each text, a space in front of a completion that brings none (`gap`), its end after it.

    Args:
        model: whose tokenizer, words and room they are made for.
        texts: what is asked; −100 among the labels.
        completions: what is answered.

    Raises:
        DataError: a row that does not fit beside the prompts, or one without a text or completion.
        BackboneError: a tokenizer without an end token.
    """
    if len(texts) != len(completions) or not len(texts):
        raise DataError(
            expected=f"a completion for each of {len(texts)} texts, at least one",
            got=f"{len(completions)}",
            remedy="Give both, in the same order.",
        )
    tokenizer, prompter = model.backbone.processor, model.prompted.prompter
    texts, around = checked(texts), model.prompted.passes.around
    pairs = around(texts) if callable(around) else [around] * len(texts)
    whole = [f"{a}{text}{b}" for text, (a, b) in zip(texts, pairs, strict=True)]
    before = [tokenizer.encode(text) for text in whole]
    after = [completion_ids(tokenizer, *row) for row in zip(completions, whole, strict=True)]
    lengths = [len(b) + len(a) for b, a in zip(before, after, strict=True)]
    limit = (model.backbone.max_tokens or max(lengths)) - (prompter.room if prompter else 0)
    width = max(lengths)
    if model.backbone.max_tokens is not None and width > limit:
        raise DataError(
            expected=f"rows of at most {limit} tokens, text and completion, beside the prompts",
            got=f"{width} in row {lengths.index(width)}",
            remedy="Shorten it: what is cut off would be learned as an end.",
        )
    shape = len(texts), width
    ids = torch.full(shape, tokenizer.pad_token_id or 0)
    mask, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -100)
    for row, (b, a) in enumerate(zip(before, after, strict=True)):
        ids[row, : len(b) + len(a)] = torch.tensor(b + a)
        mask[row, : len(b) + len(a)] = 1
        labels[row, len(b) : len(b) + len(a)] = torch.tensor(a)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if model.wants_queries:
        batch["query"] = model.queries(texts)
    return [{key: value[i] for key, value in batch.items()} for i in range(len(texts))]


class Asked:
    """Batches of completions as the parts below read them: queries, and the task's class."""

    def __init__(self, backbone: Backbone, batches: Batches, label: int) -> None:
        self.backbone, self.batches, self.label = backbone, batches, label

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            made = batch_of(batch.get("input_ids"), batch.get("attention_mask"))
            if "labels" in batch:
                made["attention_mask"] = asked(made["attention_mask"], batch["labels"])
            query = batch["query"] if "query" in batch else self.backbone.query(made)
            yield {**made, "query": query, "labels": torch.full((len(query),), self.label)}


def batch_of(input_ids: Tensor | None, attention_mask: Tensor | None) -> dict[str, Tensor]:
    """Return ids and mask; the mask is all of the text where none is given."""
    if input_ids is None:
        raise DataError(
            expected="input_ids of shape [B T]",
            got="none",
            remedy="Tokenize the texts; embeddings cannot be given, since queries read tokens.",
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return {"input_ids": input_ids, "attention_mask": mask}


def asked(mask: Int[Tensor, "B T"], labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return the mask of what stands before the first label: what is asked.

    All of a text where its first token is a label, or where none is.

    >>> mask, none = torch.tensor([[0, 1, 1, 1, 1]]), -100
    >>> asked(mask, torch.tensor([[none, none, none, 7, 8]]))
    tensor([[0, 1, 1, 0, 0]])
    >>> asked(mask, torch.tensor([[none, 5, 6, 7, 8]]))
    tensor([[0, 1, 1, 1, 1]])
    """
    before = mask * ((labels != -100).cumsum(1) == 0).to(mask)
    return torch.where(before.any(dim=1, keepdim=True), before, mask)
