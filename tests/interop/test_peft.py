"""Exchange with PEFT: golden adapters, and PEFT's own code on what is written here."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from cpool.backbones import Backbone, wrap_model
from cpool.distil import distil
from cpool.errors import CheckpointError, DataError, PoolError
from cpool.initialisers import normal
from cpool.inject import encode
from cpool.interop.peft import export_peft, pool_from_peft, prompter_from_peft, read_peft
from cpool.language import LabelTrie, label_trie, score_labels
from cpool.policies import Everything
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, PrefixSite, Prompter
from cpool.selection import Selection
from tests import tiny
from tests.common.tasks import build, stream
from tests.golden_vit import FOLDER

GOLDEN = FOLDER / "peft"
KINDS = {
    "prompt_tuning": None,
    "multitask_prompt_tuning": 2,
    "prefix_tuning": None,
    "prefix_tuning_projection": None,
    "cartridge": None,
}


def golden() -> tuple[Backbone, dict[str, Tensor]]:
    tensors = load_file(FOLDER / "peft_llama.safetensors")
    config = json.loads((GOLDEN / "llama_config.json").read_text())
    model = LlamaForCausalLM(LlamaConfig(**config))
    base = {k.removeprefix("base."): v for k, v in tensors.items() if k.startswith("base.")}
    model.load_state_dict(base, strict=True)
    return wrap_model(model.eval(), name="golden"), tensors


def logits(backbone: Backbone, prompter: Prompter, batch: dict[str, Tensor], slot: int) -> Tensor:
    """Return the words' scores at the text's own positions, with one slot for every row."""
    with torch.no_grad():
        encoded = encode(backbone, batch, prompter.forced(slot))
        width = batch["input_ids"].shape[1]
        return backbone.word_logits(encoded.hidden_states[-1][:, -width:])


def prompter_of(pool: PromptPool, site) -> Prompter:
    policy = Everything()
    branch = Branch("peft", pool, policy, site, per_task=1)
    for task in range(len(pool)):
        policy.grow(1, task)
    return Prompter([branch])


@pytest.mark.parametrize("kind", KINDS)
def test_golden_adapters_give_golden_logits(kind) -> None:
    backbone, tensors = golden()
    folder = GOLDEN / f"llama_{kind}"
    pool, site = pool_from_peft([folder], backbone, task=KINDS[kind])
    batch = {
        "input_ids": tensors["right.input_ids"].long(),
        "attention_mask": tensors["right.attention_mask"].long(),
    }
    got = logits(backbone, prompter_of(pool, site), batch, 0)
    expected = tensors[f"{kind}.right.logits"][:, -got.shape[1] :]
    real = batch["attention_mask"].bool()
    rows = [0] if kind == "multitask_prompt_tuning" else range(len(got))  # task 2 is row 0's
    for row in rows:
        close = {"rtol": 0, "atol": 1e-5}
        torch.testing.assert_close(got[row][real[row]], expected[row][real[row]], **close)
    assert pool.slots[0].name == folder.name
    assert not pool.blocks[0].requires_grad


def test_golden_adapters_of_a_t5_give_golden_logits() -> None:
    tensors = load_file(FOLDER / "peft_t5.safetensors")
    config = T5Config(**json.loads((GOLDEN / "t5_config.json").read_text()))
    model = T5ForConditionalGeneration(config)
    base = {k.removeprefix("base."): v for k, v in tensors.items() if k.startswith("base.")}
    model.load_state_dict(base, strict=False)
    backbone = wrap_model(model, name="golden-t5")
    batch = {k: tensors[k].long() for k in ("input_ids", "attention_mask")}
    before, real = tensors["decoder_input_ids"], tensors["decoder_attention_mask"].bool()
    pools = []
    for halves in (1, 2):
        name = f"prompt_tuning_submodules{halves}"
        pool, site = pool_from_peft([GOLDEN / f"t5_{name}"], backbone)
        prompter = prompter_of(pool, site)
        expected = tensors[f"{name}.logits"].log_softmax(dim=-1)
        for row, words in enumerate(before.tolist()):
            # Labels of the words that the golden decoder was given, and of any last one.
            said = words[1 : int(real[row].sum())]
            names = tuple(str(word) for word in range(61))
            trie = LabelTrie(names, tuple((*said, word) for word in range(61)))
            with torch.no_grad():
                scores = score_labels(backbone, batch, prompter.forced(0), trie)[row]
            past = sum(expected[row, i, word] for i, word in enumerate(said))
            torch.testing.assert_close(scores, past + expected[row, len(said)], rtol=0, atol=2e-5)
        pools.append(pool)
    assert pools[0].values().shape == pools[1].values().shape == (1, 1, 3, 32)


def branches(kind: str) -> list[Branch]:
    """Return a branch at each site, with two slots."""
    backbone = tiny.backbone(kind)
    layers = tuple(range(backbone.prefix_layers))
    sites = [EmbeddingSite(), PrefixSite(layers, backbone.num_kv_heads)]
    made = []
    for site in sites:
        cache = isinstance(site, PrefixSite)
        width = backbone.num_kv_heads * backbone.head_dim if cache else backbone.hidden_size
        pool = PromptPool(site.sites, 4, width, normal(0.5))
        pool.grow(2)
        pool.mark_trained(torch.tensor([[0], [1]]))
        made.append(prompter_of(pool, site).branches["peft"])
    return made


def in_peft(kind: str, folder: Path) -> PeftModel:
    """Return PEFT's own model with an adapter, loaded without a warning."""
    backbone, base = tiny.backbone(kind), tiny.language_model(kind)
    base.load_state_dict(
        {
            **{f"{base.base_model_prefix}.{k}": v for k, v in backbone.model.state_dict().items()},
            "lm_head.weight": backbone.lm_head.weight,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(base, str(folder)).eval()


BATCH = ["the cat sleeps on the big house", "a bird", "help my card"]


def check_same(kind: str, branch: Branch, slot: int, theirs: PeftModel) -> Tensor:
    """Compare logits at the texts' own positions with PEFT's, padded on the right."""
    backbone = tiny.backbone(kind)
    batch = backbone.prepare(BATCH)
    got = logits(backbone, Prompter([branch]), batch, slot)
    with torch.no_grad():
        expected = theirs(**batch).logits[:, -got.shape[1] :]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], rtol=0, atol=1e-5)
    return got[real]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("which", ["tokens", "prefix", "cartridge"])
def test_peft_loads_what_is_written_and_computes_the_same(kind, which, tmp_path) -> None:
    backbone, branch = tiny.backbone(kind), branches(kind)[which != "tokens"]
    export_peft(branch, 1, tmp_path / "mine", base="tiny", cartridge=which == "cartridge")
    theirs = in_peft(kind, tmp_path / "mine")
    check_same(kind, branch, 1, theirs)
    batch = backbone.prepare(BATCH)
    real = batch["attention_mask"].bool()
    # The words that follow, taken greedily, are the same. (PEFT's `generate` with a cache differs
    # from its own forward with these versions, so the forward is asked for each word.)
    mine = others = batch["input_ids"][:1, : int(real[0].sum())]
    for _ in range(6):
        full = {"input_ids": mine, "attention_mask": torch.ones_like(mine)}
        following = logits(backbone, Prompter([branch]), full, 1)[:, -1].argmax(dim=1)
        mine = torch.cat([mine, following[:, None]], dim=1)
        with torch.no_grad():
            scores = theirs(input_ids=others, attention_mask=torch.ones_like(others)).logits
        others = torch.cat([others, scores[:, -1].argmax(dim=1)[:, None]], dim=1)
    assert mine.tolist() == others.tolist()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_peft_loads_the_prompt_of_a_task_that_shares_one(tmp_path) -> None:
    """The product of the shared prompt and the task's own part is what is written."""
    run = build("multitask_prompt", "llama")
    run.fit_task(stream("llama")[0])
    run.fit_task(stream("llama")[1])
    branch = run.model.prompter.branches["prompt"]
    assert not torch.equal(branch.pool.values()[0], branch.pool.values()[1])
    got = []
    for slot in (0, 1):
        export_peft(branch, slot, tmp_path / str(slot))
        got.append(check_same("llama", branch, slot, in_peft("llama", tmp_path / str(slot))))
    assert not torch.allclose(*got, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
@pytest.mark.parametrize("site", ["prefix", "tokens"])
def test_peft_loads_a_document_that_was_distilled(site, tmp_path) -> None:
    backbone = tiny.backbone("llama")
    text = "the red card is lost please open the blue account in the big bank now"
    slot = distil(backbone, text, BATCH, length=4, site=site, epochs=2, quiet=True)
    export_peft(slot.branch, 0, tmp_path, cartridge=site == "prefix")
    theirs = in_peft("llama", tmp_path)
    check_same("llama", slot.branch, 0, theirs)
    kind = "CARTRIDGE" if site == "prefix" else "PROMPT_TUNING"
    assert read_peft(tmp_path).kind == theirs.active_peft_config.peft_type.value == kind


def test_a_cartridge_is_of_prefixes(tmp_path) -> None:
    with pytest.raises(PoolError, match="prefixes on all layers"):
        export_peft(branches("llama")[0], 0, tmp_path / "no", cartridge=True)
    assert not (tmp_path / "no").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
@pytest.mark.parametrize("which", [0, 1], ids=["tokens", "prefix"])
def test_peft_loads_what_is_written_for_a_t5_and_computes_the_same(which, tmp_path) -> None:
    backbone, branch = tiny.backbone("t5"), branches("t5")[which]
    for slot in (0, 1):
        export_peft(branch, slot, tmp_path / f"s{slot}", task_type="SEQ_2_SEQ_LM")
    base = tiny.language_model("t5")
    base.load_state_dict(backbone.language_model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "s1")).eval()
    batch = backbone.prepare(["the cat sleeps on the big house", "a bird", "help my card"])
    trie = label_trie(["red cat", "red dog runs", "blue", "house"], backbone.processor)
    with torch.no_grad():
        got = score_labels(backbone, batch, Prompter([branch]).forced(1), trie)
        for column, words in enumerate(trie.sequences):
            table = theirs(**batch, labels=torch.tensor([words] * 3)).logits.log_softmax(dim=-1)
            expected = table[:, range(len(words)), words].sum(dim=1)
            torch.testing.assert_close(got[:, column], expected, rtol=0, atol=2e-5)
    # Saved again by PEFT, the file is the same: it has the rows of both halves.
    theirs.save_pretrained(tmp_path / "again")
    saved = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("s1", "again")]
    assert torch.equal(*(tensors["prompt_embeddings"] for tensors in saved))
    pool, site = pool_from_peft([tmp_path / "s0", tmp_path / "s1"], backbone)
    assert torch.equal(pool.values(), branch.pool.values()) and site == branch.site


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_prefixes_that_peft_makes_for_a_t5_give_what_they_give_there(depth, tmp_path) -> None:
    """Whatever PEFT makes of its own rows: which of them go to which layer is its business."""
    changes = {"num_layers": depth, "num_decoder_layers": 2}
    config = T5Config(**{**tiny._MODELS["t5"][1], **changes})
    torch.manual_seed(0)
    base = T5ForConditionalGeneration(config).eval()
    backbone = wrap_model(copy.deepcopy(base), tiny.backbone("t5").processor, name="base")
    asked = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    theirs = get_peft_model(base, asked).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.normal_(0.0, 1.0)
    theirs.save_pretrained(tmp_path)
    pool, site = pool_from_peft([tmp_path], backbone)
    assert isinstance(site, PrefixSite) and site.layers == (0, 1)
    batch = backbone.prepare(BATCH)
    words = torch.tensor([[1, 7, 9, 8]] * 3)
    with torch.no_grad():
        expected = theirs(**batch, decoder_input_ids=words).logits.log_softmax(dim=-1)
        trie = LabelTrie(("a",), ((7, 9, 8, 2),))
        got = score_labels(backbone, batch, prompter_of(pool, site).forced(0), trie)
        bare = score_labels(backbone, batch, None, trie)
    expected = expected[:, range(4), [7, 9, 8, 2]].sum(dim=1)
    torch.testing.assert_close(got[:, 0], expected, rtol=0, atol=2e-5)
    assert (got - bare).abs().min() > 0.01


def test_what_is_for_another_kind_of_model_is_refused(tmp_path) -> None:
    cache = branches("llama")[1]
    with pytest.raises(PoolError, match="a slot of a decoder, for a CARTRIDGE"):
        export_peft(cache, 0, tmp_path / "mine", task_type="SEQ_2_SEQ_LM", cartridge=True)
    folder = export_peft(cache, 0, tmp_path / "mine", base="tiny-t5")
    with pytest.raises(CheckpointError, match=r"'tiny-t5', an encoder–decoder.*for a decoder"):
        pool_from_peft([folder], tiny.backbone("t5"))
    other = export_peft(branches("t5")[1], 0, tmp_path / "t5", task_type="SEQ_2_SEQ_LM")
    with pytest.raises(CheckpointError, match=r"'tiny-llama', a decoder.*for an encoder–decoder"):
        pool_from_peft([other], tiny.backbone("llama"))
    deep = wrap_model(tiny.language_model("t5"), name="deep")
    deep.prefix_layers = 5
    with pytest.raises(CheckpointError, match=r"on 5 layers.*on 4 layers"):
        pool_from_peft([other], deep)
    config = json.loads((folder / "adapter_config.json").read_text())
    changed = {**config, "num_transformer_submodules": 2, "peft_type": "MULTITASK_PROMPT_TUNING"}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="in the decoder of an encoder–decoder, too"):
        read_peft(folder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_slot_comes_back_as_it_was(which, tmp_path) -> None:
    branch = branches("llama")[which]
    export_peft(branch, 0, tmp_path / "first")
    export_peft(branch, 1, tmp_path / "second")
    pool, site = pool_from_peft([tmp_path / "first", tmp_path / "second"], tiny.backbone("llama"))
    assert torch.equal(pool.values(), branch.pool.values())
    assert site == branch.site
    assert [slot.name for slot in pool.slots] == ["first", "second"]


def test_adapters_of_others_are_routed_by_a_few_texts(tmp_path) -> None:
    backbone, branch = tiny.backbone("llama"), branches("llama")[0]
    folders = [export_peft(branch, slot, tmp_path / f"a{slot}") for slot in range(2)]
    texts = [["the cat sleeps", "a dog runs", "the bird eats"], ["lost card", "bank loan open"]]
    prompter = prompter_from_peft(folders, texts, backbone, centroids=3)
    for slot, rows in enumerate(texts):
        prompts = prompter(backbone.query(backbone.prepare(rows)))
        assert prompts.selections["peft"].index[:, 0].tolist() == [slot] * len(rows)
        expected = branch.pool.gather(Selection(torch.tensor([[slot]]), None, torch.zeros(())))
        assert torch.equal(prompts.tokens[0], expected[0, 0])
    with pytest.raises(DataError, match="at least one text for each of 2"):
        prompter_from_peft(folders, texts[:1], backbone)


@pytest.mark.parametrize("which", [0, 1])
def test_adapters_of_different_length_share_a_pool(which, tmp_path) -> None:
    backbone, long = tiny.backbone("llama"), branches("llama")[which]
    sites, length, width = long.pool.sites, long.pool.length, long.pool.width
    pool = PromptPool(sites, 1, width, normal(1.0))
    short = Branch("short", pool, Everything(), long.site, start=1)
    pool.grow(1)
    folders = [export_peft(long, 0, tmp_path / "long"), export_peft(short, 0, tmp_path / "short")]
    texts = [["the cat sleeps", "a dog runs"], ["lost card", "bank loan open"]]
    prompter = prompter_from_peft(folders, texts, backbone, centroids=2)
    branch = prompter.branches["peft"]
    assert branch.pool.lengths == (length, 1)
    batch = backbone.prepare([texts[1][0], texts[0][0], texts[1][1]])
    mixed = encode(backbone, batch, prompter(backbone.query(batch))).hidden_states[-1]
    for row, own in enumerate([short, long, short]):
        single = tiny.unpadded(batch, row)
        alone = encode(backbone, single, Prompter([own]).forced(0)).hidden_states[-1][0]
        width = single["input_ids"].shape[1]
        mine = mixed[row, -batch["input_ids"].shape[1] :][batch["attention_mask"][row].bool()]
        torch.testing.assert_close(mine, alone[-width:], atol=1e-5, rtol=1e-4)
    for slot, folder in enumerate(folders):
        again = export_peft(branch, slot, tmp_path / f"again{slot}")
        file = "adapter_model.safetensors"
        assert (again / file).read_bytes() == (folder / file).read_bytes()
        assert read_peft(again).values.shape == read_peft(folder).values.shape


def test_what_does_not_fit_is_refused_and_both_are_named(tmp_path) -> None:
    branch = branches("llama")[0]
    folder = export_peft(branch, 0, tmp_path / "mine", base="somebody/other-model")
    with pytest.raises(CheckpointError, match=r"'tiny-llama'.*'somebody/other-model'"):
        pool_from_peft([folder], tiny.backbone("llama"))
    pool_from_peft([folder], tiny.backbone("llama"), any_base=True)
    wide = golden()[0]
    wide.hidden_size = 48
    with pytest.raises(CheckpointError, match=r"width 48.*width 32"):
        pool_from_peft([folder], wide)
    caches = export_peft(branches("llama")[1], 0, tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"on 2 layers.*on 3 layers"):
        pool_from_peft([caches], golden()[0])
    with pytest.raises(CheckpointError, match="of one kind, PROMPT_TUNING"):
        pool_from_peft([folder, caches], tiny.backbone("llama"), any_base=True)


def test_files_that_are_no_adapter_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        read_peft(tmp_path)
    folder = Path(export_peft(branches("llama")[0], 0, tmp_path / "mine"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="LORA"):
        read_peft(folder)
    without = {key: value for key, value in config.items() if key != "token_dim"}
    (folder / "adapter_config.json").write_text(json.dumps(without))
    with pytest.raises(CheckpointError, match=r"got no token_dim"):
        read_peft(folder)
    (folder / "adapter_config.json").write_text(json.dumps({**config, "num_virtual_tokens": 9}))
    with pytest.raises(CheckpointError, match="prompt_embeddings of shape"):
        read_peft(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"other": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="a tensor prompt_embeddings"):
        read_peft(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="safetensors"):
        read_peft(folder)
    with pytest.raises(CheckpointError, match="task=0 to 3"):
        read_peft(GOLDEN / "llama_multitask_prompt_tuning")


def test_prefixes_that_peft_has_no_place_for_are_refused(tmp_path) -> None:
    backbone = tiny.backbone("llama")
    site = PrefixSite((1, 2), backbone.num_kv_heads)
    pool = PromptPool(site.sites, 4, backbone.num_kv_heads * backbone.head_dim)
    pool.grow(1)
    with pytest.raises(PoolError, match="all layers from 0"):
        export_peft(prompter_of(pool, site).branches["peft"], 0, tmp_path / "x")
    assert not (tmp_path / "x").exists()
