"""Generated words: each row of a mixed batch gets what it gets alone."""

import pytest
import torch
from torch import Tensor

from cpool.errors import BackboneError, DataError
from cpool.inject import encode
from cpool.language import generate
from cpool.methods import PromptTuning, ZeroShot
from cpool.prompter import Prompts
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream, trained

TEXTS = ["the cat sleeps on the big house", "a bird", "please help my card now"]
NEW = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


def greedy(kind: str, text: str, prompts: Prompts, steps: int = 6) -> list[int]:
    """Return the most probable words one after another, each from a pass over all before it."""
    backbone = tiny.backbone(kind)
    ids = torch.tensor([backbone.processor.encode(text, add_special_tokens=False)])
    start = ids.shape[1]
    for _ in range(steps):
        with torch.no_grad():
            state = encode(backbone, {"input_ids": ids}, prompts).hidden_states[-1][:, -1]
        ids = torch.cat([ids, backbone.word_logits(state).argmax(dim=1)[:, None]], dim=1)
    return ids[0, start:].tolist()


@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("what", ["none", "tokens", "prefix", "both"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_prompts_of_their_own_get_what_they_get_alone(kind, what, side) -> None:
    backbone = tiny.backbone(kind)
    prompts = tiny.prompts(kind, len(TEXTS), what)
    batch = tiny.padded(backbone.prepare(TEXTS), 2, side)
    made = generate(backbone, batch, prompts, **NEW)
    for row, text in enumerate(TEXTS):
        own = tiny.part(prompts, slice(row, row + 1))
        assert made[row].tolist() == greedy(kind, text, own)


@pytest.mark.parametrize("what", ["tokens", "prefix"])
def test_beams_share_the_prompt_of_their_row(what) -> None:
    backbone, prompts = tiny.backbone("llama"), tiny.prompts("llama", len(TEXTS), what)
    options = {**NEW, "num_beams": 3}
    together = generate(backbone, backbone.prepare(TEXTS), prompts, **options)
    for row, text in enumerate(TEXTS):
        own = tiny.part(prompts, slice(row, row + 1))
        alone = generate(backbone, backbone.prepare([text]), own, **options)
        assert together[row].tolist() == alone[0].tolist()


def test_words_stream_as_they_come() -> None:
    class Streamer:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def put(self, value: Tensor) -> None:
            self.seen += value.reshape(-1).tolist()

        def end(self) -> None:
            self.seen.append(-1)

    backbone, prompts = tiny.backbone("llama"), tiny.prompts("llama", 1, "both")
    streamer = Streamer()
    made = generate(backbone, backbone.prepare(TEXTS[:1]), prompts, streamer=streamer, **NEW)
    assert streamer.seen == [*made[0].tolist(), -1]


def test_a_model_routes_each_row_to_its_slot() -> None:
    learner = trained("prompt_tuning", "llama").learner
    model, tasks = learner.model, stream("llama")
    texts = [str(task.test.x[0]) for task in tasks]
    batch = model.prepare(texts)
    made = model.generate(batch, **NEW)
    with torch.no_grad():
        chosen = model.prompter(model.query(batch)).selections["prompt"].index[:, 0]
    assert len(set(chosen.tolist())) > 1
    before, after = model.passes.around
    for row, text in enumerate(texts):
        own = model.prompter.forced(int(chosen[row]))
        assert made[row].tolist() == greedy("llama", f"{before}{text}{after}", own)
    told = model.generate(batch, 0, **NEW)
    assert told[2].tolist() == greedy(
        "llama", f"{before}{texts[2]}{after}", model.prompter.forced(0)
    )


def test_a_row_that_no_slot_fits_has_no_prompt() -> None:
    from cpool.learner import Learner

    model = PromptTuning(length=2, labels=LABELS).build(tiny.backbone("llama"))
    learner = Learner(model, seed=0, device="cpu", quiet=True, epochs=1, batch_size=6)
    learner.run(stream("llama"))
    policy = model.prompter.branches["prompt"].policy
    batch = model.prepare(TEXTS)
    near = policy.nearness(model.query(batch), torch.ones(3, dtype=torch.bool))
    policy.threshold = float(near.sort().values[:2].mean())
    made = model.generate(batch, **NEW)
    before, after = model.passes.around
    for row, text in enumerate(TEXTS):
        whole = f"{before}{text}{after}"
        with torch.no_grad():
            slot = model.prompter(model.query(batch)).selections["prompt"].index[row, 0]
        bare = float(near[row]) < policy.threshold
        own = tiny.prompts("llama", 1, "none") if bare else model.prompter.forced(int(slot))
        assert made[row].tolist() == greedy("llama", whole, own)


def test_generation_leaves_training_as_it_was() -> None:
    model = ZeroShot(labels=LABELS).build(tiny.backbone("llama"))
    model.begin_task(range(6))
    assert model.training
    model.generate(model.prepare(TEXTS), **NEW)
    assert model.training


def test_what_cannot_generate_is_refused() -> None:
    backbone = tiny.backbone("bert")
    with pytest.raises(BackboneError, match="a language model"):
        generate(backbone, backbone.prepare(TEXTS))
    gpt2 = tiny.backbone("gpt2")
    long = {"input_ids": torch.randint(4, 20, (1, tiny.TEXT))}
    with pytest.raises(DataError, match="at most 64 tokens"):
        generate(gpt2, long, tiny.prompts("gpt2", 1, "tokens"), **NEW)
