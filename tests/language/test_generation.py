"""Generated words: each row of a mixed batch gets what it gets alone."""

from threading import Thread

import pytest
import torch
from torch import Tensor
from transformers import TextIteratorStreamer

from cpool.backbones import Backbone
from cpool.errors import BackboneError, ConfigError, DataError
from cpool.inject import encode
from cpool.language import generate
from cpool.methods import PromptTuning, ZeroShot
from cpool.prompter import Prompts
from cpool.seeding import seeded
from tests import tiny
from tests.common.rows import LABELS
from tests.common.tasks import stream, trained

TEXTS = ["the cat sleeps on the big house", "a bird", "please help my card now"]
NEW = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


def greedy(kind: str, text: str, prompts: Prompts, steps: int = 6) -> list[int]:
    """Return the most probable words one after another, each from a pass over all before it."""
    backbone = tiny.backbone(kind)
    if backbone.kind == "seq2seq":
        return answered(backbone, text, prompts, steps)
    ids = torch.tensor([backbone.processor.encode(text, add_special_tokens=False)])
    start = ids.shape[1]
    for _ in range(steps):
        with torch.no_grad():
            state = encode(backbone, {"input_ids": ids}, prompts).hidden_states[-1][:, -1]
        ids = torch.cat([ids, backbone.word_logits(state).argmax(dim=1)[:, None]], dim=1)
    return ids[0, start:].tolist()


def answered(backbone: Backbone, text: str, prompts: Prompts, steps: int) -> list[int]:
    """Return what `greedy` does, of an encoder–decoder, by its own forward."""
    model = backbone.language_model
    embeds = model.get_input_embeddings()(torch.tensor([backbone.processor.encode(text)]))
    if prompts.tokens is not None:
        embeds = torch.cat([prompts.tokens, embeds], dim=1)
    said = torch.tensor([[model.config.decoder_start_token_id]])
    for _ in range(steps):
        with torch.no_grad():
            made = model(inputs_embeds=embeds, decoder_input_ids=said, cache=tiny.cached(prompts))
        logits = made.logits[:, -1]
        said = torch.cat([said, logits.argmax(dim=1)[:, None]], dim=1)
    return said[0, 1:].tolist()


def next_word(backbone: Backbone, text: str, prompts: Prompts, temperature: float) -> Tensor:
    """Return the probabilities of the word after a text, from the model's own forward."""
    model = backbone.language_model
    seq2seq = backbone.kind == "seq2seq"
    ids = backbone.processor.encode(text, add_special_tokens=seq2seq)
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    embeds = torch.cat([prompts.tokens, embeds], dim=1)
    begun = {}
    if seq2seq:
        begun["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        logits = model(inputs_embeds=embeds, **begun).logits[0, -1]
    return (logits / temperature).softmax(dim=0)


@pytest.mark.parametrize("what", ["none", "tokens", "prefix", "both"])
@pytest.mark.parametrize("kind", tiny.SPEAKING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_prompts_of_their_own_get_what_they_get_alone(kind, what, side) -> None:
    backbone = tiny.backbone(kind)
    prompts = tiny.prompts(kind, len(TEXTS), what)
    batch = tiny.padded(backbone.prepare(TEXTS), 2, side)
    made = generate(backbone, batch, prompts, **NEW)
    for row, text in enumerate(TEXTS):
        own = tiny.part(prompts, slice(row, row + 1))
        assert made[row].tolist() == greedy(kind, text, own)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("llama", "tokens"), ("llama", "prefix"), ("t5", "tokens"), ("t5", "prefix")],
)
def test_beams_share_the_prompt_of_their_row(kind, what) -> None:
    backbone, prompts = tiny.backbone(kind), tiny.prompts(kind, len(TEXTS), what)
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


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_a_routed_answer_streams_as_text(kind) -> None:
    """With the streamer of transformers itself, read while the words are being made."""
    model = trained("prompt_tuning", kind).learner.model
    tokenizer = model.backbone.processor
    batch = model.prepare([str(stream(kind)[1].test.x[0])])
    made = model.generate(batch, **NEW)[0]
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True, timeout=60.0)
    options = {**NEW, "streamer": streamer}
    thread = Thread(target=model.generate, args=(batch,), kwargs=options)
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == tokenizer.decode(made, skip_special_tokens=True)
    assert len([piece for piece in pieces if piece]) > 1


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_words_are_drawn_as_often_as_they_are_probable(kind) -> None:
    backbone, prompts = tiny.backbone(kind), tiny.prompts(kind, 2, "tokens")
    draws = 3000
    options = {"max_new_tokens": 1, "do_sample": True, "top_k": 0, "temperature": 0.7}
    with seeded(0):
        made = generate(
            backbone,
            backbone.prepare(TEXTS[:2]),
            prompts,
            num_return_sequences=draws,
            eos_token_id=None,
            **options,
        )
    for row, text in enumerate(TEXTS[:2]):
        own = tiny.part(prompts, slice(row, row + 1))
        chance = next_word(backbone, text, own, 0.7)
        found = torch.bincount(made[row * draws : (row + 1) * draws, 0], minlength=len(chance))
        spread = (chance * (1 - chance) / draws).sqrt()
        assert ((found / draws - chance).abs() < 5 * spread + 1e-3).all()
        assert float(chance.max()) < 0.9, "one word alone would show nothing"


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_model_routes_each_row_to_its_slot(kind) -> None:
    learner = trained("prompt_tuning", kind).learner
    model, tasks = learner.model, stream(kind)
    texts = [str(task.test.x[0]) for task in tasks]
    batch = model.prepare(texts)
    made = model.generate(batch, **NEW)
    with torch.no_grad():
        chosen = model.prompter(model.query(batch)).selections["prompt"].index[:, 0]
    assert chosen.tolist() == learner.explain(texts).slots["prompt"][:, 0].tolist()
    assert len(set(chosen.tolist())) > 1
    before, after = model.passes.around
    for row, text in enumerate(texts):
        own = model.prompter.forced(int(chosen[row]))
        assert made[row].tolist() == greedy(kind, f"{before}{text}{after}", own)
    told = model.generate(batch, 0, **NEW)
    assert told[2].tolist() == greedy(kind, f"{before}{texts[2]}{after}", model.prompter.forced(0))


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
    near = {"input_ids": torch.randint(4, 20, (1, tiny.TEXT - 2))}
    with pytest.raises(DataError, match="at most 64 tokens"):
        generate(gpt2, near, **NEW)
    long = {"input_ids": torch.randint(4, 20, (1, tiny.TEXT))}
    with pytest.raises(DataError, match="at most 64 tokens"):
        generate(gpt2, long, tiny.prompts("gpt2", 1, "tokens"), **NEW)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "at least 1; got 0"),
        ({"max_new_tokens": 2.5}, "a whole number"),
        ({"return_dict_in_generate": True}, "ids as the answer"),
        ({"assistant_model": object()}, "from its embeddings.*got assistant_model"),
        ({"prompt_lookup_num_tokens": 2}, "got prompt_lookup_num_tokens"),
        ({"guidance_scale": 1.5}, "got guidance_scale"),
    ],
)
def test_options_that_need_ids_or_give_none_are_refused(kind, options, says) -> None:
    from transformers import GenerationConfig

    backbone = tiny.backbone(kind)
    batch = backbone.prepare(TEXTS)
    with pytest.raises(ConfigError, match=says):
        generate(backbone, batch, **{**NEW, **options})
    if not {"max_new_tokens", "assistant_model"} & set(options):
        with pytest.raises(ConfigError, match=says):
            generate(backbone, batch, generation_config=GenerationConfig(**options))
    same = {**NEW, "guidance_scale": 1.0, "return_dict_in_generate": False}
    assert torch.equal(generate(backbone, batch, **same), generate(backbone, batch, **NEW))


def test_the_router_sees_the_text_alone_whatever_the_template() -> None:
    from cpool.learner import Learner

    method = PromptTuning(length=2, labels=LABELS, template="my card {{ text }} now please help")
    learner = Learner(
        method.build(tiny.backbone("llama")), device="cpu", quiet=True, epochs=1, batch_size=6
    )
    tasks = stream("llama")
    learner.run(tasks)
    x = [text for task in tasks for text in task.test.x]
    batch = learner.model.prepare(x)
    with torch.no_grad():
        output = learner.model.eval()(batch)
    slots = output.selections["prompt"].index[:, 0].tolist()
    assert slots == learner.explain(x).slots["prompt"][:, 0].tolist()
    answers = [learner.classes[column] for column in output.logits.argmax(dim=1)]
    assert answers == learner.predict(x).tolist()


def test_tuned_weights_are_what_generates() -> None:
    from cpool.methods import FineTuneWords

    model = FineTuneWords(labels=LABELS).build(tiny.backbone("llama"))
    model.begin_task(range(6))
    with torch.no_grad():
        model.trunk.model.embed_tokens.weight.mul_(-1.5)
    batch = model.prepare(TEXTS)
    made = model.generate(batch, **NEW)
    assert made.tolist() == generate(model.trunk, batch, **NEW).tolist()
    assert made.tolist() != generate(model.backbone, batch, **NEW).tolist()


def test_several_answers_of_rows_with_and_without_a_prompt_stay_in_order() -> None:
    from cpool.by_kind import by_kind
    from cpool.selection import Selection

    fits = torch.tensor([True, False, True])
    chosen = Selection(torch.zeros(3, 1, dtype=torch.int64), None, torch.zeros(()), None, fits)
    prompts = Prompts(torch.zeros(3, 1, 2), {}, torch.zeros(()), {"prompt": chosen})
    batch = {"input_ids": torch.tensor([[1], [2], [3]])}
    made = by_kind(
        tiny.backbone("llama"),
        batch,
        prompts,
        lambda rows, own: rows["input_ids"].repeat_interleave(2, dim=0),
    )
    assert made[:, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_live_prompts_are_refused() -> None:
    learner = trained("osprompt", "llama").learner
    with pytest.raises(BackboneError, match="live prefixes"):
        learner.model.generate(learner.model.prepare(TEXTS), **NEW)
