"""Prompt tokens: where they go, and what stays as it was."""

import pytest
import torch

from cpool.errors import BackboneError, DataError
from cpool.inject import encode
from cpool.prompter import Prompts
from tests import tiny

HIDDEN = [k for k in tiny.KINDS if tiny.backbone(k).site == "hidden"]


@pytest.mark.parametrize("kind", HIDDEN)
def test_prompts_have_neither_position_nor_bias(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention sees sets, so prompts without position do the same wherever they stand."""
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 4)
    prompts = tiny.prompts(kind, 4, "tokens")
    results = []
    for at in (0, 1, 2):
        monkeypatch.setattr(backbone, "insert_at", at)
        encoded = encode(backbone, batch, prompts)
        assert encoded.prompts == slice(at, at + 3)
        results.append(encoded.hidden_states[-1][encoded.mask])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_cls_stays_first(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 2)
    encoded = encode(backbone, batch, tiny.prompts(kind, 2, "tokens"))
    assert encoded.mask[:, 0].all() == backbone.has_cls
    assert encoded.prompts.start == (1 if backbone.has_cls else 0)


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_words_as_prompts_equal_words_in_the_text(kind: str) -> None:
    """The `inputs` site computes exactly what a hard prompt computes."""
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 3)
    words = torch.tensor([[5, 9, 7]])
    tokens = backbone.model.get_input_embeddings()(words).expand(3, -1, -1)
    soft = encode(backbone, batch, Prompts(tokens, {}, torch.zeros(()), {}))
    hard = backbone.encode(
        {
            "input_ids": torch.cat([words.expand(3, -1), batch["input_ids"]], 1),
            "attention_mask": torch.cat([torch.ones(3, 3).long(), batch["attention_mask"]], 1),
        }
    )
    torch.testing.assert_close(soft.hidden_states[-1], hard[0][-1], rtol=0, atol=1e-6)


def test_one_row_of_prompts_serves_the_batch() -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 3)
    one = tiny.prompts("vit", 1, "both")
    all_rows = Prompts(
        one.tokens.expand(3, -1, -1),
        {n: (k.expand(3, -1, -1, -1), v.expand(3, -1, -1, -1)) for n, (k, v) in one.layers.items()},
        one.loss,
        {},
    )
    expanded = encode(backbone, batch, one).hidden_states[-1]
    assert torch.equal(expanded, encode(backbone, batch, all_rows).hidden_states[-1])


def test_empty_prompts_are_no_prompts() -> None:
    backbone, batch = tiny.backbone("bert"), tiny.batch("bert", 3)
    empty = Prompts(torch.empty(3, 0, tiny.WIDTH), {}, torch.zeros(()), {})
    encoded = encode(backbone, batch, empty)
    assert encoded.prompts == slice(0, 0)
    plain = encode(backbone, batch, None)
    assert torch.equal(encoded.hidden_states[-1], plain.hidden_states[-1])


@pytest.mark.parametrize("shape", [(2, 3, 32), (3, 3, 31), (3, 2)])
def test_prompts_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    backbone, batch = tiny.backbone("vit"), tiny.batch("vit", 3)
    with pytest.raises(BackboneError, match=r"expected prompt tokens \[3 N 32\]"):
        encode(backbone, batch, Prompts(torch.zeros(shape), {}, torch.zeros(()), {}))


def test_too_many_tokens_with_prompts_are_refused() -> None:
    backbone = tiny.backbone("gpt2")
    batch = backbone.prepare([" ".join(["cat"] * 62)])
    encode(backbone, batch, None)
    with pytest.raises(DataError, match="at most 64 tokens, prompts included; got 65"):
        encode(backbone, batch, tiny.prompts("gpt2", 1, "tokens"))
    with pytest.raises(DataError, match="at most 64 tokens, prompts included; got 65"):
        backbone.encode({"input_ids": torch.full((1, 65), 5)})


def test_labels_and_other_keys_are_ignored() -> None:
    backbone, batch = tiny.backbone("bert"), tiny.batch("bert", 3)
    more = {**batch, "labels": torch.zeros(3), "sample_id": torch.arange(3), "query": torch.ones(3)}
    assert torch.equal(backbone.query(more), backbone.query(batch))
