"""Chat: the template as a user's turn, against the tokens and scores of transformers itself."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from cpool.errors import BackboneError
from cpool.language import LabelWords, Surround, Template
from cpool.methods import FewShot, PromptTuning, ZeroShot
from tests import tiny
from tests.common.rows import LABELS, SHOWN

CHAT = (
    "{{ bos_token }}{% for m in messages %}the {{ m['content'] }} help{% endfor %}"
    "{% if add_generation_prompt %} please{% endif %}"
)
TEXTS = ["the cat sleeps", "a bird flies in the house", "help"]


def talking(*, chat: str = CHAT):
    """Return a backbone whose tokenizer has a chat template."""
    backbone = tiny.new("llama")
    backbone.processor.chat_template = chat
    return backbone


def test_a_label_follows_the_turn_of_the_assistant() -> None:
    backbone = talking()
    model = ZeroShot(labels=LABELS, template="my {{ text }} now", chat=True).build(backbone)
    model.begin_task(range(6))
    model.eval()
    with torch.no_grad():
        got = model(model.prepare(TEXTS)).logits
    tokenizer, language = backbone.processor, backbone.language_model
    for text, row in zip(TEXTS, got, strict=True):
        said = [{"role": "user", "content": f"my {text} now"}]
        ids = tokenizer.apply_chat_template(
            said, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert tokenizer.decode(ids) == f"<s> the my {text} now help please"
        for label, score in zip(LABELS, row, strict=True):
            word = [*tokenizer.encode(label, add_special_tokens=False), 2]
            with torch.no_grad():
                logits = language(torch.tensor([ids + word])).logits[0].log_softmax(dim=-1)
            alone = sum(logits[len(ids) - 1 + i, w] for i, w in enumerate(word))
            torch.testing.assert_close(score, alone, atol=2e-5, rtol=1e-5)


def test_no_space_stands_before_a_label_of_the_assistant() -> None:
    vocabulary = {"<unk>": 0, "▁cat": 1, "cat": 2, "Label:": 3, "Label:cat": 4, "▁Label:": 5}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = Metaspace(prepend_scheme="never")
    backbone = tiny.new("llama")
    backbone.processor = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    for chat, token in ((False, 1), (True, 2)):
        words = ZeroShot(labels=("cat",), chat=chat).words(backbone)
        words.classes = [0]
        assert words.trie.sequences == ((token,),)


def test_there_is_one_start_token() -> None:
    made = tiny.tokenizer(special=True)  # it puts <s> before any text by itself
    made.chat_template = CHAT
    surround = Surround(Template("{{ text }}"), LabelWords(made, ["cat"]), chat=True)
    assert surround.around() == ("the ", " help please")
    bare = tiny.tokenizer(special=False)
    bare.chat_template = CHAT
    surround = Surround(Template("{{ text }}"), LabelWords(bare, ["cat"]), chat=True)
    assert surround.around() == ("<s>the ", " help please")


def test_examples_and_prompts_go_with_a_chat() -> None:
    backbone = talking()
    for pick in ("random", "nearest"):
        model = FewShot(labels=LABELS, template=SHOWN, pick=pick, chat=True).build(backbone)
        model.begin_task([0, 1])
        model.study(["the cat", "red dog"], torch.tensor([0, 1]).numpy())
        around = model.passes.around
        before, after = around(["a cat"])[0] if callable(around) else around
        assert sorted(before.split()) == sorted(["<s>the", "cat", "red", "dog"])
        assert after == " now help please"
    model = PromptTuning(length=2, labels=LABELS, slots="shared", chat=True).build(backbone)
    model.begin_task(range(6))
    batch = {**model.prepare(TEXTS), "labels": torch.tensor([0, 1, 2])}
    model(batch, task=0).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        ("", "a tokenizer with a chat template"),
        ("always the same", "0 times"),
        ("{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}", "2 times"),
    ],
)
def test_a_tokenizer_that_cannot_chat_is_refused(chat, says) -> None:
    with pytest.raises(BackboneError, match=says):
        ZeroShot(labels=LABELS, chat=True).build(talking(chat=chat))
