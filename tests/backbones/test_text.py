"""Texts to tokens: padding, truncation that is counted, refusals."""

import warnings
from typing import Any

import pytest
import torch

from cpool.backbones import TruncationWarning
from cpool.backbones.text import prepare
from cpool.errors import DataError
from tests import tiny


@pytest.mark.parametrize("side", ["left", "right"])
def test_equal_to_the_tokenizer(side: str) -> None:
    tokenizer, texts = tiny.tokenizer(side=side), tiny.raw("bert", 6)
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    ours = prepare(texts, tokenizer, None)
    for key, value in ours.items():
        assert torch.equal(value, expected[key])
    assert {"input_ids", "attention_mask"} <= set(ours)


def test_no_pad_token_is_needed() -> None:
    tokenizer = tiny.tokenizer(special=False)
    tokenizer.pad_token = None
    batch = prepare(["the cat", "the"], tokenizer, None)
    assert batch["input_ids"].tolist() == [[4, 6], [4, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert tokenizer.pad_token is None


def test_truncation_keeps_special_tokens_and_warns_once_with_the_count() -> None:
    texts = ["the cat", "the " * 20, "a dog runs", "a " * 9, "the red bird"]
    with pytest.warns(TruncationWarning, match="2 texts were longer than 6 tokens") as seen:
        batch = prepare(texts, tiny.tokenizer(), 6)
    assert len(seen) == 1
    assert batch["input_ids"].shape == (5, 6)
    assert batch["input_ids"][1].tolist() == [0, 4, 4, 4, 4, 2]
    assert batch["input_ids"][2].tolist() == [0, 5, 7, 10, 2, 1]


def test_the_backbone_leaves_room_for_prompts() -> None:
    backbone = tiny.backbone("gpt2")
    long = " ".join(["cat"] * 100)
    with pytest.warns(TruncationWarning, match="1 text was longer than 64 tokens"):
        assert backbone.prepare(["dog", long])["input_ids"].shape[1] == 64
    with pytest.warns(TruncationWarning, match="longer than 54 tokens"):
        assert backbone.prepare(["dog", long], max_tokens=54)["input_ids"].shape[1] == 54
    with pytest.warns(TruncationWarning, match="longer than 64 tokens"):
        backbone.prepare([long], max_tokens=10_000)  # never more than the model takes


def test_positions_of_roberta_start_after_the_pad_id() -> None:
    assert tiny.backbone("bert").max_tokens == 64
    assert tiny.backbone("roberta").max_tokens == tiny.backbone("mpnet").max_tokens == 62
    batch = {"input_ids": torch.full((1, 62), 5), "attention_mask": torch.ones(1, 62).long()}
    assert tiny.backbone("roberta").query(batch).isfinite().all()
    assert tiny.backbone("vit").max_tokens is None


def test_texts_that_fit_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = prepare(["the cat"], tiny.tokenizer(), 4)
    assert batch["attention_mask"].sum() == 4, "two words and two special tokens: nothing was cut"


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ([], "at least one"),
        ("the cat", "a single text into a list"),
        (["the cat", ""], "'' at position 1"),
        (["  \n"], "at position 0"),
        (["the", None], "None at position 1"),
        ([b"bytes"], "at position 0"),
        (3, "a sequence of texts"),
    ],
)
def test_wrong_texts(texts: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        prepare(texts, tiny.tokenizer(), None)


def test_no_room_for_any_token() -> None:
    with pytest.raises(DataError, match="room for at least one token"):
        prepare(["the cat"], tiny.tokenizer(), 2)


def test_a_text_of_no_token() -> None:
    tokenizer = tiny.tokenizer(special=False)
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace("x", "")
    with pytest.raises(DataError, match="none in text 1"):
        prepare(["cat", "x"], tokenizer, None)
