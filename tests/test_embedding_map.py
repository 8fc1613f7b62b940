"""Prompts of one backbone in another: the map against the normal equations, and shared tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cpool.embedding_map import EmbeddingMap, _keys
from cpool.errors import BackboneError, ConfigError
from tests import tiny

IDS = torch.arange(len(tiny.SPECIAL), len(tiny.SPECIAL) + len(tiny.WORDS))


def table(backbone) -> torch.Tensor:
    return backbone.plain_model.get_input_embeddings().weight


def test_a_linear_image_is_found_and_prompts_follow_it() -> None:
    source, target = tiny.new("llama"), tiny.new("gpt2")
    turn = torch.linalg.qr(torch.randn(tiny.WIDTH, tiny.WIDTH))[0]
    with torch.no_grad():
        table(target).copy_(table(source) @ turn + 0.5)
    over = EmbeddingMap.between(source, target, ridge=0.0)
    assert over.shared == len(set(tiny.WORDS))
    assert over.explained > 0.999
    prompt = torch.randn(2, 5, tiny.WIDTH)
    torch.testing.assert_close(over(prompt), prompt @ turn + 0.5, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_the_map_is_its_equation_where_prompts_enter(kind: str) -> None:
    source, target = tiny.backbone("llama"), tiny.backbone(kind)
    over = EmbeddingMap.between(source, target, ridge=0.2)
    x = table(source)[IDS].double().numpy()
    if kind == "bert":  # prompts stand among what the embedding with its norm has made
        made = [target.plain_model.embeddings(input_ids=i.view(1, 1))[0, 0] for i in IDS]
        y = torch.stack(made).double().detach().numpy()
    else:
        y = table(target)[IDS].double().numpy()
    before, after = x.mean(axis=0), y.mean(axis=0)
    gram = (x - before).T @ (x - before)
    ridge = 0.2 * np.trace(gram) / len(gram)
    weight = np.linalg.inv(gram + ridge * np.eye(len(gram))) @ (x - before).T @ (y - after)
    np.testing.assert_allclose(over.weight.numpy(), weight, atol=1e-5)
    prompt = torch.randn(3, tiny.WIDTH)
    wanted = (prompt.double().numpy() - before) @ weight + after
    np.testing.assert_allclose(over(prompt).numpy(), wanted, atol=1e-5)
    assert over.explained < 0.5  # two random models have nothing in common


def test_keys_are_the_same_where_they_stand_in_a_word() -> None:
    def named(*tokens: str) -> SimpleNamespace:
        vocabulary = {token: number for number, token in enumerate(tokens)}
        return SimpleNamespace(get_vocab=lambda: vocabulary, all_special_ids=[0])

    pieces = _keys(named("pad", "cat", "##cat", "dog", "12"))
    assert pieces == {("cat", True): 1, ("cat", False): 2, ("dog", True): 3}
    # "##" is what it says where spaces are marked, and no sign of the inside of a word.
    bytes_ = _keys(named("pad", "Ġcat", "cat", "ĠĠ", "##", "##cat"))
    assert bytes_ == {("cat", True): 1, ("cat", False): 2}
    sentence = _keys(named("pad", "▁dog", "▁cat", "dog", "é"))
    assert sentence == {("dog", True): 1, ("cat", True): 2, ("dog", False): 3}


def test_what_cannot_be_mapped_is_refused(monkeypatch) -> None:
    llama = tiny.backbone("llama")
    with pytest.raises(BackboneError, match="tokenizer"):
        EmbeddingMap.between(llama, tiny.backbone("vit"))
    for options in ({"ridge": -1.0}, {"held_out": 0.0}, {"held_out": 1.0}):
        with pytest.raises(ConfigError, match="held_out"):
            EmbeddingMap.between(llama, llama, **options)
    with pytest.raises(ConfigError, match="on either side"):
        EmbeddingMap.between(llama, llama, held_out=0.001)
    monkeypatch.setattr("cpool.embedding_map._keys", lambda tokenizer: {("cat", True): 3})
    with pytest.raises(BackboneError, match="share"):
        EmbeddingMap.between(llama, llama)
