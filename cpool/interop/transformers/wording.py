"""From the rows of a text, as its tokenizer makes them, to what a prompted model goes on with."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cpool.backbones import Truncations
from cpool.errors import DataError
from cpool.model import PromptedModel

__all__ = ["texts_of", "worded"]


def worded(model: PromptedModel, batch: Mapping[str, Tensor], room: int) -> Mapping[str, Tensor]:
    """Return a batch as `model.prepare` makes it of the texts that these rows are.

    The words of the template are put around each text. Where that and `room` new tokens leave too
    few positions, texts are cut, with one warning that counts them. Rows without words around them
    that fit are returned as they are.

    Args:
        model: of completions, or of labels.
        batch: ids and mask, padded on either side.
        room: how many tokens are to be generated at most.

    Raises:
        DataError: rows that are no texts, such as those of a chat.
        ConfigError: prompts and new tokens leave no room for a text.
    """
    limit = model.max_tokens(room) or model.backbone.max_tokens
    longest = int(batch["attention_mask"].sum(dim=1).max())
    if model.passes.around == ("", "") and (limit is None or longest <= limit):
        return batch
    texts = texts_of(model.backbone.processor, batch)
    with Truncations().once():
        return model.prepare(texts, room=room)


def texts_of(tokenizer: Any, batch: Mapping[str, Tensor]) -> list[str]:
    """Return the texts of which a tokenizer made these rows.

    Raises:
        DataError: a row with special tokens that the tokenizer puts into no text.
    """
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    rows = [ids[seen.bool()].tolist() for ids, seen in pairs]
    # Spaces stay as they were: some tokenizers would tidy them up.
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    texts: list[str] = [tokenizer.decode(ids, **options) for ids in rows]
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
    for ids, text in zip(rows, texts, strict=True):
        usual = tokenizer(text, verbose=False)["input_ids"]
        more = Counter(i for i in ids if i in special) - Counter(usual)
        if more:
            raise DataError(
                expected="texts, around which the words of the template are put, and which are cut "
                "where they are too long",
                got=f"tokens of no text, {tokenizer.convert_ids_to_tokens(list(more))}"[:200],
                remedy="Pass plain texts in place of a chat; a method with chat=True says them in "
                'one. Or build the model with template="{{ text }}", and shorten the rows.',
            )
    return texts
