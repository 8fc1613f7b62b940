"""What does not fit into a language model: long prompts are refused, long texts are cut."""

import warnings

import pytest

from cpool.backbones import Backbone, TruncationWarning
from cpool.errors import ConfigError
from cpool.learner import Learner
from cpool.methods import PromptTuning
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream


def learner(backbone: Backbone, length: int = 3) -> Learner:
    model = PromptTuning(length=length, labels=LABELS).build(backbone)
    return Learner(model, seed=0, device="cpu", quiet=True, epochs=2, batch_size=6)


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_a_prompt_longer_than_the_model_reads_is_refused(kind) -> None:
    with pytest.raises(ConfigError, match="prompts shorter than the 64") as refused:
        learner(tiny.backbone(kind), length=200).fit_task(stream(kind)[0])
    assert "Choose fewer or shorter prompts" in str(refused.value)


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_a_long_text_is_cut_beside_prompt_and_labels_with_one_warning(kind) -> None:
    """As much of the text is left as fits before the prompt and the longest label."""
    backbone = tiny.backbone(kind)
    run = learner(backbone)
    run.fit_task(stream(kind)[0])
    text, other = (" ".join([words] * 100) for words in ("cat sleeps", "the house"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = run.predict([text, "a bird", other])
    (warned,) = [w for w in seen if issubclass(w.category, TruncationWarning)]
    assert "2 texts were longer than" in str(warned.message)
    room = int(str(warned.message).split("longer than ")[1].split()[0])
    tokenizer = backbone.processor
    for words in run.model.passes.around:  # the template's words belong to what is read
        room -= len(tokenizer.encode(words, add_special_tokens=False))
    cut = [
        tokenizer.decode(tokenizer.encode(long, add_special_tokens=False)[:room])
        for long in (text, other)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.predict([cut[0], "a bird", cut[1]]).tolist() == found.tolist()
