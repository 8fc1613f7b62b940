"""Progressive Prompts against the numbers of its T5 code, and what the told task promises."""

import json

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from cpool.backbones import wrap_model
from cpool.errors import ConfigError
from cpool.inject import encode
from cpool.inject.embedding import through_inputs
from cpool.language import LabelTrie, score_labels
from cpool.methods import ProgressivePrompts
from cpool.policies import UpToTask
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, Prompter, Prompts
from tests import tiny
from tests.common.tasks import build, logits, stream
from tests.golden_vit import FOLDER, golden_tensors
from tests.methods.test_golden import close, close_gradient, set_

FILE = golden_tensors("progressive_t5.safetensors")


def prompter(tasks):
    """Return the method's prompter, without a model, with the golden prompts."""
    pool = PromptPool(1, 3, 32)
    made = Prompter([Branch("progressive", pool, UpToTask(), EmbeddingSite(), per_task=1)])
    for task in range(tasks):
        made.begin_task(task)
        set_(pool.blocks[task][0, 0], FILE[f"prompt.task{task}"])
    return made, pool


def t5():
    """Return the golden T5 as a backbone."""
    config = T5Config(**json.loads((FOLDER / "peft" / "t5_config.json").read_text()))
    model = T5ForConditionalGeneration(config)
    named = {k.removeprefix("base."): v for k, v in FILE.items() if k.startswith("base.")}
    missing, unexpected = model.load_state_dict(named, strict=False)
    assert not unexpected and all("embed_tokens" in m or "lm_head" in m for m in missing)
    return wrap_model(model)


def targets():
    """Return the words that each row's answer is, without padding."""
    rows = zip(FILE["target_ids"].tolist(), FILE["target_mask"].tolist(), strict=True)
    return tuple(tuple(w for w, real in zip(*row, strict=True) if real) for row in rows)


@pytest.mark.parametrize("task", [0, 1, 2])
def test_order_mask_loss_and_gradient_of_the_t5_code(task):
    """The newest prompt in front, older ones constants, ones in the mask for all of them."""
    made, pool = prompter(task + 1)
    made.train()
    prompts, backbone = made(None, task, batch=3), t5()
    before = FILE[f"after_task{task}.previous_prompts"]
    assert torch.equal(prompts.tokens[0].detach(), before)
    batch = {"input_ids": FILE["source_ids"].long(), "attention_mask": FILE["source_mask"].long()}
    embeds = through_inputs(backbone, batch, prompts.tokens)["inputs_embeds"]
    assert close(embeds, FILE[f"task{task}.encoder_inputs_embeds"], 0.0)
    encoded = encode(backbone, batch, prompts)
    seen = encoded.mask.clone()
    seen[:, encoded.prompts] = True
    assert torch.equal(seen, FILE[f"task{task}.encoder_mask"].bool())
    assert close(encoded.hidden_states[-1], FILE[f"task{task}.encoder_output"])
    # Its loss is the mean over all words of the answers, so a score of each row's own answer.
    trie = LabelTrie(("first", "second", "third"), targets())
    scores = score_labels(backbone, batch, prompts, trie)
    loss = -scores.diagonal().sum() / sum(map(len, targets()))
    assert close(loss, FILE[f"task{task}.loss"])
    loss.backward()
    assert close_gradient(pool.blocks[task].grad[0, 0], FILE[f"task{task}.grad.prompt"])
    assert all(pool.blocks[old].grad is None for old in range(task))


@pytest.mark.parametrize("kind", ["vit", "bert", "llama"])
def test_the_model_gets_the_prompts_of_the_told_task_newest_first(kind):
    learner = build("progressive_prompts", kind)
    for task in stream(kind):
        learner.fit_task(task)
    model, batch = learner.model.eval(), tiny.batch(kind, 3, seed=2)
    blocks = [block[0, 0] for block in model.prompter.branches["progressive"].pool.blocks]
    for told in (0, 1, 2, None):
        used = blocks[: 3 if told is None else told + 1]
        tokens = torch.cat(used[::-1])[None]
        encoded = encode(model.backbone, batch, Prompts(tokens, {}, torch.zeros(()), {}))
        features = model.backbone.pool(encoded.hidden_states, encoded.mask)
        assert torch.allclose(model(batch, task=told).features, features, atol=1e-5)


def test_what_a_told_task_gets_never_changes_after_it_was_learned():
    learner, batch = build("progressive_prompts", "vit"), tiny.batch("vit", 5, seed=3)
    kept = {}
    for task in stream("vit"):
        learner.fit_task(task)
        for old, before in kept.items():
            now = logits(learner, batch, old)
            assert torch.equal(now[:, : before.shape[1]], before)
            assert torch.isinf(now[:, before.shape[1] :]).all()
        kept[task.index] = logits(learner, batch, task.index)


def test_without_the_task_every_sample_gets_all_prompts_and_all_classes_compete():
    learner, batch = build("progressive_prompts_untold", "vit"), tiny.batch("vit", 5, seed=3)
    for task in stream("vit"):
        learner.fit_task(task)
    model = learner.model
    assert model.eval()(batch).selections["progressive"].index.tolist() == [[2, 1, 0]]
    assert torch.isfinite(logits(learner, batch)).all()


def test_whether_the_task_is_needed_is_said_by_the_instance():
    assert ProgressivePrompts().needs_task is True
    assert ProgressivePrompts(known_task=False).needs_task is False
    assert "needs_task" not in ProgressivePrompts().hyper_parameters()


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="init above 0"):
        ProgressivePrompts(init=0.0)


def test_features_that_are_kept_are_those_of_the_task_that_was_told():
    learner = build("progressive_prompts", "vit")
    for task in stream("vit"):
        learner.fit_task(task)
    for told in (None, 0, 2, 1):
        kept = learner.predictor.predict(stream("vit")[0].test, told).probabilities
        anew = learner.predictor.predict(stream("vit")[0].test, told, cached=False).probabilities
        assert abs(kept - anew).max() < 1e-5, told
