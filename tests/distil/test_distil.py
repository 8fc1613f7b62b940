"""Distilled slots against the text itself, word by word, and what self-study makes."""

import pytest
import torch

from cpool.backbones import TruncationWarning
from cpool.distil import agreement, distil, divergence, routed_slots, self_study
from cpool.distil.comparing import text_prompts
from cpool.errors import BackboneError, ConfigError, DataError, PoolError
from cpool.initialisers import from_values
from cpool.inject import encode
from cpool.pool import PromptPool
from tests import tiny

TEXT = "the red card is lost please open the blue account in the big bank now"
ROWS = ["the cat sleeps", "a bird flies in the house", "help", "my fish eats the tree"]


def logits(kind: str, words: list[int], embeds: torch.Tensor | None = None) -> torch.Tensor:
    """Return the word logits of transformers' own language model, without cpool."""
    model = tiny.backbone(kind).language_model
    rows = model.get_input_embeddings()(torch.tensor([words]))
    if embeds is not None:
        rows = torch.cat([embeds[None], rows], dim=1)
    return model(inputs_embeds=rows).logits[0]


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_divergence_is_its_equation(kind: str) -> None:
    backbone = tiny.backbone(kind)
    tokenizer = backbone.processor
    torch.manual_seed(0)
    soft = torch.randn(3, backbone.hidden_size, requires_grad=True)
    read = tokenizer.encode(TEXT, add_special_tokens=False)
    apart, same = [], []
    for row in ROWS:
        ids = tokenizer.encode(row, add_special_tokens=False)
        wanted = logits(kind, [*read, *ids])[len(read) :].detach().softmax(dim=-1)
        found = logits(kind, ids, soft)[3:].softmax(dim=-1)
        for p, q in zip(wanted, found, strict=True):
            apart.append(sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)))
            same.append(bool(p.argmax() == q.argmax()))
    expected = torch.stack(apart).mean()
    prompts = text_prompts(backbone, TEXT)
    ours = prompts._replace(tokens=soft[None], layers={})
    got = divergence(backbone, backbone.prepare(ROWS), prompts, ours)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(got, [soft])
    (naive,) = torch.autograd.grad(expected, [soft])
    torch.testing.assert_close(gradient, naive, atol=2e-5, rtol=1e-3)
    found = agreement(backbone, ROWS, prompts, ours, batch_size=3)
    assert found.words == len(apart) and found.same == sum(same) / len(same)
    assert found.divergence == pytest.approx(float(expected.detach()), rel=1e-4)


def test_blocks_of_words_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone("llama")
    values = torch.randn(1, 2, backbone.hidden_size, requires_grad=True)
    teacher = text_prompts(backbone, TEXT)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        student = teacher._replace(tokens=values, layers={})
        loss = divergence(backbone, backbone.prepare(ROWS), teacher, student)
        return loss.detach(), torch.autograd.grad(loss, [values])[0]

    whole = both()
    monkeypatch.setattr("cpool.language.blocks.BLOCK", 5 * backbone.vocabulary_size)
    for a, b in zip(both(), whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("site", ["prefix", "tokens"])
def test_a_slot_of_the_whole_text_says_what_the_text_says(kind: str, site: str) -> None:
    """It starts from the text: with a place for every token there is nothing to learn."""
    backbone = tiny.backbone(kind)
    read = len(backbone.processor.encode(TEXT, add_special_tokens=False))
    slot = distil(backbone, TEXT, ROWS, length=read, site=site, epochs=1, lr=1e-9, quiet=True)  # type: ignore[arg-type]
    found = agreement(backbone, ROWS, text_prompts(backbone, TEXT), slot.prompts())
    assert found.divergence < 1e-5 and found.same == 1.0 and slot.read == read


@pytest.mark.parametrize("site", ["prefix", "tokens"])
def test_a_short_slot_learns_to_say_it(site: str) -> None:
    backbone = tiny.backbone("llama")
    before = {k: v.clone() for k, v in backbone.plain_model.state_dict().items()}
    teacher = text_prompts(backbone, TEXT)

    def made(epochs: int, lr: float, seed: int = 0):
        return distil(
            backbone,
            TEXT,
            ROWS,
            length=3,
            site=site,  # type: ignore[arg-type]
            epochs=epochs,
            batch_size=3,
            lr=lr,
            seed=seed,
            quiet=True,
        )

    start = agreement(backbone, ROWS, teacher, made(1, 1e-9).prompts())
    slot = made(40, 0.02)
    end = agreement(backbone, ROWS, teacher, slot.prompts())
    assert end.divergence < 0.5 * start.divergence
    assert len(slot.losses) == 40 and slot.losses[-1] < slot.losses[0]
    assert torch.equal(made(40, 0.02).values, slot.values)
    assert not torch.equal(made(40, 0.02, seed=1).values, slot.values)
    after = backbone.plain_model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    # It is a slot like any other: a pool of one's own reads the same from it.
    assert not any(block.requires_grad for block in slot.branch.pool.blocks)
    pool = PromptPool(*slot.values.shape)
    pool.grow(1, from_values(slot.values[None]))
    assert torch.equal(pool.values()[0], slot.values)


def test_each_row_is_the_same_alone_and_in_any_batch() -> None:
    backbone = tiny.backbone("qwen2")
    slot = distil(backbone, TEXT, ROWS, length=4, epochs=2, quiet=True)
    together = encode(backbone, backbone.prepare(ROWS), slot.prompts())
    for number, row in enumerate(ROWS):
        alone = encode(backbone, backbone.prepare([row]), slot.prompts())
        mine = together.hidden_states[-1][number][together.mask[number]]
        torch.testing.assert_close(mine, alone.hidden_states[-1][0], atol=1e-5, rtol=1e-4)


def test_each_question_gets_the_slot_of_the_text_that_it_is_about() -> None:
    backbone = tiny.backbone("llama")
    texts = [["the cat sleeps", "a cat eats"], ["open the bank account", "send my card"]]
    options = {"length": 3, "epochs": 1, "quiet": True}
    slots = [distil(backbone, " ".join(rows), rows, **options) for rows in texts]
    prompter = routed_slots(slots, texts, backbone, centroids=2)
    batch = backbone.prepare([texts[1][0], texts[0][0], texts[1][1]])
    prompts = prompter.eval()(backbone.query(batch))
    assert prompts.selections["distilled"].index[:, 0].tolist() == [1, 0, 1]
    mixed = encode(backbone, batch, prompts).hidden_states[-1]
    for row, number in enumerate([1, 0, 1]):
        alone = encode(backbone, tiny.unpadded(batch, row), slots[number].prompts())
        mine = mixed[row][batch["attention_mask"][row].bool()]
        torch.testing.assert_close(mine, alone.hidden_states[-1][0], atol=1e-5, rtol=1e-4)
    with pytest.raises(DataError, match="at least one text for each of 2 slots"):
        routed_slots(slots, texts[:1], backbone)
    with pytest.raises(DataError, match="at least one slot"):
        routed_slots([], [], backbone)
    longer = distil(backbone, "the red card is lost now", texts[0], **{**options, "length": 4})
    prompter = routed_slots([slots[0], longer], texts, backbone, centroids=2)
    prompts = prompter.eval()(backbone.query(batch))
    mixed = encode(backbone, batch, prompts).hidden_states[-1]
    for row, slot in enumerate([longer, slots[0], longer]):
        alone = encode(backbone, tiny.unpadded(batch, row), slot.prompts())
        mine = mixed[row][batch["attention_mask"][row].bool()]
        torch.testing.assert_close(mine, alone.hidden_states[-1][0], atol=1e-5, rtol=1e-4)
    tokens = distil(backbone, TEXT, texts[0], **{**options, "site": "tokens"})
    with pytest.raises(PoolError, match="sites and width"):
        routed_slots([slots[0], tokens], texts, backbone)


def test_self_study_asks_about_every_part_and_repeats_itself() -> None:
    backbone = tiny.backbone("llama")
    made = self_study(backbone, TEXT, 7, chunk=4, words=5, batch_size=2)
    assert len(made) == 7 and all(row.count("Answer:") == 1 for row in made)
    assert made == self_study(backbone, TEXT, 7, chunk=4, words=5, batch_size=2)
    assert made != self_study(backbone, TEXT, 7, chunk=4, words=5, batch_size=2, seed=1)
    # An answer is what the model says when it has read that part, and not another.
    first = made[0].partition("Answer:")
    ids = backbone.processor.encode(TEXT, add_special_tokens=False)[:4]
    row = ids + backbone.processor.encode(first[0] + "Answer:", add_special_tokens=False)
    said = []
    for _ in range(5):
        word = int(logits("llama", row + said)[-1].argmax())
        if word == backbone.language_model.generation_config.eos_token_id:
            break
        said.append(word)
    wanted = backbone.processor.decode(said, skip_special_tokens=True)
    assert first[2].split() == wanted.split()


def test_what_cannot_work_is_refused() -> None:
    backbone = tiny.backbone("llama")
    with pytest.raises(ConfigError, match="length of at most 15, the tokens of the text; got 16"):
        distil(backbone, TEXT, ROWS, length=16)
    with pytest.raises(DataError, match="texts that may follow"):
        distil(backbone, TEXT, [], length=2)
    with pytest.raises(DataError, match="a text with words"):
        distil(backbone, "", ROWS, length=2)
    with pytest.raises(ConfigError, match="lr above 0"):
        distil(backbone, TEXT, ROWS, length=2, lr=0.0)
    with pytest.raises(ConfigError, match="epochs of at least 1"):
        distil(backbone, TEXT, ROWS, length=2, epochs=0)
    with pytest.raises(BackboneError, match="language model with its output embedding"):
        distil(tiny.backbone("bert"), TEXT, ROWS, length=2)
    long = " ".join(["cat"] * tiny.TEXT)
    with pytest.raises(DataError, match="leaves room in 64 positions"):
        distil(backbone, long, ROWS, length=2)
    with pytest.raises(ConfigError, match="n of at least 1"):
        self_study(backbone, TEXT, 0)
    with pytest.raises(ConfigError, match="at least one opener"):
        self_study(backbone, TEXT, 1, openers=[])
    with pytest.raises(DataError, match="a text with words"):
        self_study(backbone, " ", 1)


def test_wrong_numbers_and_kinds_are_refused_with_the_reason() -> None:
    backbone = tiny.backbone("llama")
    prompts = text_prompts(backbone, TEXT)
    with pytest.raises(DataError, match="texts to compare on"):
        agreement(backbone, [], prompts, None)
    seq2seq = tiny.backbone("t5")
    with pytest.raises(BackboneError, match="a decoder, which keeps keys and values"):
        distil(seq2seq, TEXT, ROWS, length=2)
    with pytest.raises(BackboneError, match="a decoder, which keeps keys and values"):
        self_study(seq2seq, TEXT, 2)


def test_rows_that_do_not_fit_are_cut_alike_in_training_and_in_comparing() -> None:
    backbone = tiny.backbone("llama")
    long = [" ".join(["cat"] * 60)]
    with pytest.warns(TruncationWarning, match="1 text"):
        slot = distil(backbone, TEXT, long, length=2, epochs=1, quiet=True)
    with pytest.warns(TruncationWarning, match="1 text"):
        found = agreement(backbone, long, text_prompts(backbone, TEXT), slot.prompts())
    assert found.words == tiny.TEXT - 15
