"""Slots of different length in one pool: each row of a batch gets what it gets alone."""

import json
from itertools import product

import pytest
import torch
from torch import Tensor

from cpool import Learner
from cpool.by_kind import by_kind
from cpool.errors import BackboneError, PoolError
from cpool.experiment.inspect import inspect_checkpoint
from cpool.initialisers import (
    constant,
    from_slot,
    from_text,
    from_text_cache,
    mean_of_slots,
    normal,
)
from cpool.inject import encode
from cpool.language import generate, label_trie, score_completions, score_labels
from cpool.low_rank_pool import LowRankPool
from cpool.passes import Passes
from cpool.policies import Everything, TopK, UpToTask, evict
from cpool.pool import PromptPool
from cpool.prompter import (
    Branch,
    EmbeddingSite,
    Live,
    PrefixSite,
    Prompter,
    Prompts,
    sorted_prompts,
)
from cpool.ragged import beside, packed
from cpool.readout import read
from cpool.selection import Selection
from tests import tiny
from tests.common.tasks import trained

LENGTHS = (5, 2, 4, 1)
CHOICES = torch.tensor([[1], [0], [3], [2]])  # of slots by four rows
PAIRS = torch.tensor([[1, 0], [0, 3], [3, 1], [2, 2]])
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def branch(kind: str, what: str, *, halves: bool = False) -> Branch:
    """Return four slots of LENGTHS at the embedding, or on the first and last layer."""
    backbone = tiny.backbone(kind)
    layers = (0, backbone.prefix_layers - 1)
    tokens = what == "tokens"
    site = EmbeddingSite() if tokens else PrefixSite(layers, backbone.num_kv_heads, halves)
    width = backbone.hidden_size if tokens else backbone.num_kv_heads * backbone.head_dim
    torch.manual_seed(0)
    pool = PromptPool(site.sites, max(LENGTHS), width, normal(1.0))
    made = Branch(what, pool, Everything(), site, start=len(LENGTHS))
    pool.grow(len(LENGTHS))
    for slot, length in enumerate(LENGTHS):
        pool.shorten(slot, length)
    return made


def chosen(branches: list[Branch], index: Tensor) -> Prompts:
    """Return the prompts of rows that chose these slots, in every branch."""
    parts = [b.read(Selection(index, None, torch.zeros(()))) for b in branches]
    sites = [b.site for b in branches]
    kept = [(site, values, s.real) for site, (values, s) in zip(sites, parts, strict=True)]
    return sorted_prompts(kept, torch.zeros(()), {})


def alone(branches: list[Branch], slots: list[int]) -> Prompts:
    """Return the prompts of one row, cut and put together by hand."""
    tokens, layers = [], {}
    for own in branches:
        values = torch.cat([own.pool.values()[s, :, : LENGTHS[s]] for s in slots], dim=1)
        if isinstance(own.site, EmbeddingSite):
            tokens.append(values)
            continue
        for number, layer in enumerate(own.site.layers):
            split = values.unflatten(2, (own.site.heads, -1)).transpose(1, 2)
            layers[layer] = split[2 * number][None], split[2 * number + 1][None]
    return Prompts(torch.cat(tokens, 1) if tokens else None, layers, torch.zeros(()), {})


KINDS = {"tokens": ["tokens"], "prefix": ["prefix"], "both": ["tokens", "prefix"]}
WORDS = list(product(tiny.SPEAKING, KINDS))
STATES = [(kind, what) for kind, what in WORDS if what == "tokens" or kind in tiny.DECODERS]


def cell(kind: str, what: str, index: Tensor) -> tuple[list[Branch], Prompts]:
    branches = [branch(kind, each) for each in KINDS[what]]
    return branches, chosen(branches, index)


@pytest.mark.parametrize("index", [CHOICES, PAIRS], ids=["one", "two"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "what"), STATES)
def test_states_of_a_row_are_those_it_has_alone(kind, what, side, index) -> None:
    backbone = tiny.backbone(kind)
    branches, prompts = cell(kind, what, index)
    batch = tiny.padded(tiny.batch(kind), 2, side)
    together = encode(backbone, batch, prompts)
    for row, slots in enumerate(index.tolist()):
        own = encode(backbone, tiny.unpadded(batch, row), alone(branches, slots))
        mine = together.hidden_states[-1][row][together.mask[row]]
        torch.testing.assert_close(mine, own.hidden_states[-1][0][own.mask[0]], **CLOSE)


@pytest.mark.parametrize("index", [CHOICES, PAIRS], ids=["one", "two"])
@pytest.mark.parametrize(("kind", "what"), WORDS)
def test_labels_and_completions_score_what_they_score_alone(kind, what, index) -> None:
    backbone = tiny.backbone(kind)
    branches, prompts = cell(kind, what, index)
    trie = label_trie(["red cat", "red dog runs", "blue"], backbone.processor)
    texts = tiny.raw(kind)
    said = ["the cat", "a dog runs", "blue", "house river"]
    rows = backbone.prepare(texts, completions=said)
    scores = score_labels(backbone, backbone.prepare(texts), prompts, trie)
    follow = score_completions(backbone, rows, prompts)
    for row, slots in enumerate(index.tolist()):
        own = alone(branches, slots)
        one = score_labels(backbone, backbone.prepare(texts[row : row + 1]), own, trie)
        torch.testing.assert_close(scores[row : row + 1], one, atol=1e-4, rtol=1e-4)
        single = backbone.prepare(texts[row : row + 1], completions=said[row : row + 1])
        one = score_completions(backbone, single, own)
        torch.testing.assert_close(follow[row : row + 1], one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("index", [CHOICES, PAIRS], ids=["one", "two"])
@pytest.mark.parametrize(("kind", "what"), WORDS)
def test_a_row_goes_on_as_it_does_alone(kind, what, index, beams) -> None:
    backbone = tiny.backbone(kind)
    branches, prompts = cell(kind, what, index)
    texts = tiny.raw(kind)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "num_beams": beams}
    together = generate(backbone, backbone.prepare(texts), prompts, **options)
    for row, slots in enumerate(index.tolist()):
        single = backbone.prepare(texts[row : row + 1])
        own = generate(backbone, single, alone(branches, slots), **options)
        assert together[row].tolist() == own[0].tolist()


OTHERS = [(kind, "tokens") for kind in tiny.ENCODERS + tiny.VISION]
OTHERS += [(k, w) for k, w in product(tiny.ENCODERS + tiny.VISION, ["prefix", "both"])
           if k not in tiny.NO_PREFIX]  # fmt: skip


@pytest.mark.parametrize("index", [CHOICES, PAIRS], ids=["one", "two"])
@pytest.mark.parametrize(("kind", "what"), OTHERS)
def test_models_that_cannot_hide_padding_run_rows_of_one_length_together(kind, what, index) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind)
    branches, prompts = cell(kind, what, index)
    passes: list[int] = []

    def run(rows: dict[str, Tensor], own: Prompts | None) -> Tensor:
        encoded = encode(backbone, rows, own)
        passes.append(len(encoded.mask))
        return read("tokens", backbone, encoded)

    together = by_kind(backbone, batch, prompts, run)
    for row, slots in enumerate(index.tolist()):
        single = encode(backbone, tiny.unpadded(batch, row), alone(branches, slots))
        torch.testing.assert_close(together[row], read("tokens", backbone, single)[0], **CLOSE)
    assert sorted(passes) == sorted(map(sum_of(index).count, set(sum_of(index))))
    with pytest.raises(BackboneError, match="of one length in a pass"):
        encode(backbone, batch, prompts)


def sum_of(index: Tensor) -> list[int]:
    return [sum(LENGTHS[slot] for slot in slots) for slots in index.tolist()]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_mean_of_prompt_states_leaves_padding_out(kind) -> None:
    backbone, batch = tiny.backbone(kind), tiny.batch(kind)
    branches, prompts = cell(kind, "tokens", CHOICES)
    together = read("prompts", backbone, encode(backbone, batch, prompts))
    for row, slots in enumerate(CHOICES.tolist()):
        own = encode(backbone, tiny.unpadded(batch, row), alone(branches, slots))
        torch.testing.assert_close(together[row], read("prompts", backbone, own)[0], **CLOSE)


@pytest.mark.parametrize("what", ["tokens", "prefix"])
def test_training_moves_the_tokens_of_a_slot_and_no_others(what) -> None:
    backbone = tiny.backbone("llama")
    own = branch("llama", what)
    before = own.pool.values().detach().clone()
    optimizer = torch.optim.AdamW(own.pool.parameters(), lr=0.1, weight_decay=0.1)
    trie = label_trie(["red cat", "blue"], backbone.processor)
    for _ in range(2):
        loss = score_labels(backbone, tiny.batch("llama"), chosen([own], CHOICES), trie).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = (own.pool.values() != before).flatten(3).any(dim=3).any(dim=1)
    assert moved.tolist() == own.pool.real(torch.arange(4)).tolist()


@pytest.mark.parametrize("what", ["tokens", "prefix"])
def test_hard_prompts_of_different_length_share_a_pool(what) -> None:
    backbone = tiny.backbone("llama")
    prompts = ["the cat sleeps in the house", "red", "please help my card now"]
    make = from_text if what == "tokens" else from_text_cache
    starts = [make(backbone, text) for text in prompts]
    site = EmbeddingSite()
    width = backbone.hidden_size
    if what == "prefix":
        site = PrefixSite(tuple(range(backbone.num_layers)), backbone.num_kv_heads)
        width = backbone.num_kv_heads * backbone.head_dim
    pool = PromptPool(site.sites, max(start.length for start in starts), width)
    for start in starts:
        pool.shorten(pool.grow(1, start)[0], start.length)
    own = Branch("words", pool, Everything(), site, start=3)
    texts, trie = (
        ["a bird", "lost", "the big dog"],
        label_trie(["red cat", "blue"], backbone.processor),
    )
    scores = score_labels(
        backbone, backbone.prepare(texts), chosen([own], torch.arange(3)[:, None]), trie
    )
    hard = [f"{prompt} {text}" for prompt, text in zip(prompts, texts, strict=True)]
    expected = torch.cat([score_labels(backbone, backbone.prepare([t]), None, trie) for t in hard])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_where_all_rows_have_the_same_slots_there_is_no_padding_and_one_copy() -> None:
    own = branch("llama", "tokens")
    for index in (torch.tensor([[1, 3]]), torch.tensor([[1, 3]]).expand(4, -1)):
        prompts = chosen([own], index)
        assert prompts.real is None
        assert prompts.tokens.shape[1] == LENGTHS[1] + LENGTHS[3]
    assert prompts.tokens.stride(0) == 0
    mixed = chosen([own], PAIRS)
    assert mixed.real.sum(dim=1).tolist() == sum_of(PAIRS)
    assert mixed.tokens.shape[1] == max(sum_of(PAIRS))


def test_padding_stands_in_front() -> None:
    values = torch.arange(1.0, 13.0).view(2, 1, 3, 2)
    real = torch.tensor([[True, False, True], [False, True, False]])
    moved, mask = packed(values, real)
    assert mask.tolist() == [[True, True], [False, True]]
    assert moved[0, 0].tolist() == [[1, 2], [5, 6]]
    assert moved[1, 0, 1].tolist() == [9, 10]
    joined, whole = beside([(values[:, 0], real), (values[:, 0], None)], dim=1)
    assert joined.shape == (2, 6, 2)
    assert whole.tolist() == [[True, False, True] + [True] * 3, [False, True, False] + [True] * 3]


def test_a_pool_keeps_lengths_through_copies_and_plans() -> None:
    own = branch("llama", "tokens")
    pool = own.pool
    assert pool.lengths == LENGTHS
    made = PromptPool(1, 5, pool.width)
    made.restore(json.loads(json.dumps(pool.layout())))
    assert made.lengths == LENGTHS
    assert [s.length for s in made.slots] == [None, 2, 4, 1]
    pool.freeze_all()
    new = pool.grow(1, from_slot(pool, 1), parent=1)[0]
    assert pool.lengths[new] == 2
    assert torch.equal(pool.values()[new], pool.values()[1])
    pool.start_from(new, 3)
    assert pool.lengths[new] == 1
    other = branch("llama", "tokens").pool
    pool.join(other, 2)
    assert pool.lengths == (*LENGTHS, 1, *LENGTHS)
    pool.recombine([[{1: 1.0}, {3: 1.0}], [{3: 0.5, 4: 0.5}]])
    assert pool.lengths == (2, 1, 1)
    with pytest.raises(PoolError, match=r"slots of one length.*lengths \[1, 2\]"):
        pool.recombine([[{0: 0.5, 1: 0.5}]])
    assert pool.lengths == (2, 1, 1)
    with pytest.raises(PoolError, match=r"whose mean is taken; got lengths \[1, 2\]"):
        mean_of_slots(pool, [0, 1])((1, 1, 5, pool.width))


def test_what_cannot_be_shortened_says_why() -> None:
    own = branch("llama", "tokens")
    for length in (0, 3, True):
        with pytest.raises(PoolError, match="a length from 1 to 2"):
            own.pool.shorten(1, length)
    own.pool.shorten(1, 2)  # as it is
    with pytest.raises(PoolError, match="a slot number below 4"):
        own.pool.shorten(4, 1)
    with pytest.raises(PoolError, match=r"slots of one length.*weighted sum"):
        own.read(Selection(PAIRS, torch.full((4, 2), 0.5), torch.zeros(())))
    own.pool.freeze_all()
    with pytest.raises(PoolError, match="slot 0, which is frozen"):
        own.pool.shorten(0, 3)
    low = LowRankPool(1, 5, 8)
    low.grow(1)
    with pytest.raises(PoolError, match="LowRankPool, whose slots are made otherwise"):
        low.shorten(0, 3)
    halved = branch("vit", "prefix", halves=True)
    with pytest.raises(PoolError, match="halved or made inside the pass"):
        halved.read(Selection(CHOICES, None, torch.zeros(())))


def test_copies_of_a_short_slot_are_it_and_hold_nothing_beyond() -> None:
    pool = branch("llama", "tokens").pool
    pool.freeze_all()
    new = pool.grow(1, from_slot(pool, 2), parent=2)[0]
    assert torch.equal(pool.values()[new], pool.values()[2])
    assert torch.equal(
        from_slot(pool, 1)((1, 1, 5, pool.width))[0, 0, 2:4], pool.values()[1, 0, :2]
    )


@pytest.mark.parametrize("how", ["merge", "pca", "usage"])
def test_eviction_joins_slots_of_one_length_or_leaves_all_as_it_was(how) -> None:
    pool, policy = PromptPool(1, 5, 8, normal(1.0)), TopK(8)
    for length in (5, 3, 3, 5):
        pool.freeze_all()
        policy.freeze_all()
        pool.shorten(pool.grow(1)[0], length)
        policy.grow(1)
    before = pool.values().clone()
    if how == "pca":
        with pytest.raises(PoolError, match="slots of one length"):
            evict(pool, policy, 3, how)
        assert torch.equal(pool.values(), before)
        assert len(pool) == len(policy.vectors()) == 4
        return
    evict(pool, policy, 3, how)
    assert len(pool) == len(policy.vectors()) == 3
    if how == "merge":
        merged = [pool.length_of(i) for i, slot in enumerate(pool.slots) if slot.parents]
        assert merged == [3]
        pool.shorten(2, 2)  # now no two are as long
        pool.freeze_all()
        policy.freeze_all()
        with pytest.raises(PoolError, match="slots of one length"):
            evict(pool, policy, 2, how)
        assert len(pool) == len(policy.vectors()) == 3


def test_slots_that_are_all_as_short_are_of_one_length() -> None:
    pool = PromptPool(1, 5, 8, normal(1.0))
    pool.grow(3)
    for slot in range(3):
        pool.shorten(slot, 2)
    weight = torch.tensor([[0.25, 0.75]])
    mixed = pool.gather(Selection(torch.tensor([[0, 2]]), weight, torch.zeros(())))
    values = pool.values()
    torch.testing.assert_close(mixed, (0.25 * values[:1] + 0.75 * values[2:])[:, :, :2])
    own = Branch("b", pool, Everything(), EmbeddingSite(), start=3)
    read_values, selection = own.read(Selection(torch.tensor([[0], [1]]), None, torch.zeros(())))
    assert read_values.shape == (2, 1, 2, 8)
    assert selection.real is None


def test_the_penalty_of_a_branch_does_not_train_what_is_cut() -> None:
    torch.manual_seed(0)
    pool = PromptPool(1, 4, 8, normal(1.0))
    own = Branch("b", pool, UpToTask(), EmbeddingSite(), per_task=2, penalty=1.0).train()
    own.begin_task(0)
    pool.shorten(1, 2)
    own.policy.train()
    _, selection = own(None, 0, 3)
    selection.loss.backward()
    gradient = pool.blocks[0].grad
    assert gradient[0].abs().sum() > 0 and gradient[1, :, :2].abs().sum() > 0
    assert gradient[1, :, 2:].abs().sum() == 0


def test_kept_features_depend_on_the_length_of_a_slot() -> None:
    backbone = tiny.backbone("bert")
    pool = PromptPool(1, 3, backbone.hidden_size, constant(0.0))
    prompter = Prompter([Branch("b", pool, Everything(), EmbeddingSite(), start=2)])
    prompter.begin_task(0)
    whole = Passes(backbone, prompter, "query")
    apart = Passes(backbone, prompter, "query", apart=True)
    pool.blocks[0].requires_grad_(False)
    keys = whole.key("features", 0), apart.key("features.0", 0), apart.key("features.1", 0)
    pool.blocks[0].requires_grad_(True)
    pool.shorten(1, 2)  # zeros stay zeros
    pool.blocks[0].requires_grad_(False)
    assert whole.key("features", 0) != keys[0]
    assert apart.key("features.1", 0) != keys[2]
    first = apart.key("features.0", 0)
    pool.grow(1, task=1)
    assert apart.key("features.0", 0) == first


def test_live_prompts_beside_rows_of_different_length_are_refused_by_an_encoder() -> None:
    prompts = chosen([branch("vit", "prefix")], CHOICES)
    live = {1: Live(2, lambda query: (query, query))}
    with pytest.raises(PoolError, match="beside prompts that are made inside the pass"):
        by_kind(
            tiny.backbone("vit"), tiny.batch("vit"), prompts._replace(live=live), lambda b, p: b
        )


@pytest.mark.parametrize("kind", ["llama", "bert", "vit"])
def test_a_checkpoint_keeps_the_lengths_and_inspect_shows_them(kind, tmp_path) -> None:
    trained("dualprompt", kind).learner.save(tmp_path / "whole")
    learner = Learner.load(tmp_path / "whole", tiny.backbone(kind))
    name, own = next(iter(learner.model.prompter.branches.items()))
    place = len(own.pool) - 1
    own.pool.blocks[-1].requires_grad_(True)
    own.pool.shorten(place, 1)
    own.pool.freeze_all()
    learner.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved", tiny.backbone(kind))
    assert again.model.prompter.branches[name].pool.lengths == own.pool.lengths
    batch = again.model.prepare(tiny.raw(kind))
    with torch.no_grad():
        old, new = (each.model.eval()(batch).logits for each in (learner, again))
    assert torch.equal(old, new)
    shown = inspect_checkpoint(tmp_path / "saved")
    view = next(view for view in shown.branches if view.name == name)
    assert view.slots[place].length == 1


def test_rows_are_as_wide_as_the_longest_of_them() -> None:
    backbone, seen = tiny.new("llama"), []
    backbone.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: (
            seen.append(kwargs["inputs_embeds"].shape[1])
            if kwargs.get("inputs_embeds") is not None
            else None
        ),
        with_kwargs=True,
    )
    tokens = torch.randn(2, 9, backbone.hidden_size)
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1, :8] = False
    prompts = Prompts(tokens, {}, torch.zeros(()), {}, real=real)
    batch = backbone.prepare(["cat", "the cat sleeps in the big house"])
    generate(backbone, batch, prompts, max_new_tokens=2, do_sample=False)
    lengths = batch["attention_mask"].sum(dim=1)
    assert seen[0] == max(9 + int(lengths[0]), 1 + int(lengths[1]))


@pytest.mark.parametrize("what", ["tokens", "prefix"])
def test_a_static_cache_gives_the_same_words(what) -> None:
    backbone, options = tiny.backbone("llama"), {"max_new_tokens": 5, "do_sample": False}
    batch = backbone.prepare(["the cat sleeps", "a red bird"])  # without padding
    prompts = tiny.prompts("llama", 2, what)
    made = generate(backbone, batch, prompts, eos_token_id=None, **options)
    static = generate(
        backbone, batch, prompts, eos_token_id=None, cache_implementation="static", **options
    )
    assert made.tolist() == static.tolist()
