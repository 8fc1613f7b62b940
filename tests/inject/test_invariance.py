"""A row is the same alone, in a batch, shuffled, and padded on either side: every kind."""

from typing import Any

import pytest
import torch

from cpool.errors import BackboneError
from cpool.inject import Encoded, encode
from tests import tiny

WHAT = ("none", "tokens", "prefix", "both")
SIZE = 6


def cases() -> list[Any]:
    refused = {(kind, what) for kind in tiny.NO_PREFIX for what in ("prefix", "both")}
    return [(kind, what) for kind in tiny.KINDS for what in WHAT if (kind, what) not in refused]


def check(kind: str, one: Encoded, other: Encoded, rows: Any = slice(None)) -> None:
    """Compare pooled features, prompt rows and every real token of every layer."""
    backbone = tiny.backbone(kind)
    features = [backbone.pool(e.hidden_states, e.mask) for e in (one, other)]
    torch.testing.assert_close(features[0], features[1][rows], rtol=0, atol=1e-5)
    for a, b in zip(one.hidden_states, other.hidden_states, strict=True):
        b, mask = b[rows], other.mask[rows]
        # Inner states have no norm after them and grow large; features are held to 1e-5 as such.
        limits = {"rtol": 0, "atol": 1e-5 * max(1.0, float(b.abs().max()))}
        torch.testing.assert_close(a[one.mask], b[mask], **limits)
        torch.testing.assert_close(a[:, one.prompts], b[:, other.prompts], **limits)


@pytest.mark.parametrize(("kind", "what"), cases())
def test_alone_shuffled_and_padded(kind: str, what: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, SIZE)
    prompts = tiny.prompts(kind, SIZE, what)
    together = encode(backbone, batch, prompts, all_layers=True)
    for i in range(SIZE):
        row = slice(i, i + 1)
        mine = tiny.part(prompts, row)
        check(
            kind,
            encode(backbone, tiny.unpadded(batch, i), mine, all_layers=True),
            together,
            row,
        )
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = tiny.rows(batch, order), tiny.part(prompts, order)
    check(kind, encode(backbone, *shuffled, all_layers=True), together, order)
    for side in ("left", "right"):
        padded = tiny.padded(batch, 5, side)
        check(kind, encode(backbone, padded, prompts, all_layers=True), together)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_query_alone_and_in_128(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 128)
    together = backbone.query(batch)
    for i in (0, 17, 127):
        alone = backbone.query(tiny.unpadded(batch, i))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-5)
    assert together.std(0).mean() > 1e-2  # rows differ, so the comparison means something


@pytest.mark.parametrize(("kind", "what"), [c for c in cases() if c[1] != "none"])
def test_prompts_have_an_effect_and_are_marked(kind: str, what: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, SIZE)
    encoded = encode(backbone, batch, tiny.prompts(kind, SIZE, what), all_layers=True)
    features = backbone.pool(encoded.hidden_states, encoded.mask)
    assert (features - backbone.query(batch)).abs().max() > 0.05
    number = 3 if what in ("tokens", "both") else 0
    assert len(range(*encoded.prompts.indices(10**6))) == number
    assert not encoded.mask[:, encoded.prompts].any()
    plain = encode(backbone, batch, None)
    assert encoded.mask.sum() == plain.mask.sum()
    assert encoded.hidden_states[0].shape[1] == plain.hidden_states[0].shape[1] + number
    assert len(encoded.hidden_states) == backbone.num_layers + 1


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_padding_does_not_enter_the_mean(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 3)
    (state,), mask = backbone.encode(batch)
    by_hand = torch.stack([row[kept].mean(0) for row, kept in zip(state, mask, strict=True)])
    features = backbone.features(batch, pooling="mean")
    torch.testing.assert_close(features, by_hand, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", tiny.NO_PREFIX)
def test_attention_out_of_reach_is_refused(kind: str) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind, 2)
    says = "its decoder" if backbone.kind == "seq2seq" else "attention interface"
    with pytest.raises(BackboneError, match=says):
        encode(backbone, batch, tiny.prompts(kind, 2, "prefix"))
