"""Slots that start as text."""

import pytest
import torch

from cpool.errors import DataError
from cpool.initialisers import from_text
from cpool.pool import PromptPool
from tests import tiny


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_slot_from_text_holds_the_embeddings_of_its_tokens(kind):
    backbone = tiny.backbone(kind)
    text = "close the house"
    ids = backbone.processor.encode(text, add_special_tokens=False)
    pool = PromptPool(1, len(ids), backbone.hidden_size)
    pool.grow(1, from_text(backbone, text))
    expected = backbone.model.get_input_embeddings()(torch.tensor(ids)).detach()
    assert torch.equal(pool.values()[0, 0].detach(), expected)


def test_a_text_is_repeated_or_cut_to_the_length_of_the_pool():
    backbone = tiny.backbone("bert")
    pool = PromptPool(1, 5, backbone.hidden_size)
    pool.grow(1, from_text(backbone, "red blue"))
    rows = pool.values()[0, 0]
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], rows[3])
    assert not torch.equal(rows[0], rows[1])


def test_an_empty_text_or_an_image_model_is_refused():
    with pytest.raises(DataError, match="hard prompt"):
        from_text(tiny.backbone("bert"), "  ")
    with pytest.raises(DataError, match="with a tokenizer"):
        from_text(tiny.backbone("vit"), "a cat")
