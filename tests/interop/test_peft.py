"""Exchange with PEFT: golden adapters, and PEFT's own code on what is written here."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cpool.backbones import Backbone, wrap_model
from cpool.errors import CheckpointError, DataError, PoolError
from cpool.initialisers import normal
from cpool.inject import encode
from cpool.interop.peft import export_peft, pool_from_peft, prompter_from_peft, read_peft
from cpool.policies import Everything
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, PrefixSite, Prompter
from cpool.selection import Selection
from tests import tiny
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


def branches(kind: str) -> list[Branch]:
    """Return a branch at each site, with two slots."""
    backbone = tiny.backbone(kind)
    sites = [EmbeddingSite(), PrefixSite(tuple(range(3)), backbone.num_kv_heads)]
    made = []
    for site in sites:
        cache = isinstance(site, PrefixSite)
        width = backbone.num_kv_heads * backbone.head_dim if cache else backbone.hidden_size
        pool = PromptPool(site.sites, 4, width, normal(0.5))
        pool.grow(2)
        pool.mark_trained(torch.tensor([[0], [1]]))
        made.append(prompter_of(pool, site).branches["peft"])
    return made


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("which", [0, 1])
def test_peft_loads_what_is_written_and_computes_the_same(kind, which, tmp_path) -> None:
    backbone, branch = tiny.backbone(kind), branches(kind)[which]
    export_peft(branch, 1, tmp_path / "mine", base="tiny")
    base = tiny.language_model(kind)
    base.load_state_dict(
        {
            **{f"{base.base_model_prefix}.{k}": v for k, v in backbone.model.state_dict().items()},
            "lm_head.weight": backbone.lm_head.weight,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "mine")).eval()
    batch = backbone.prepare(["the cat sleeps on the big house", "a bird", "help my card"])
    got = logits(backbone, Prompter([branch]), batch, 1)
    with torch.no_grad():
        expected = theirs(**batch).logits[:, -got.shape[1] :]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], rtol=0, atol=1e-5)
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
    with pytest.raises(CheckpointError, match="of one kind and length"):
        pool_from_peft([folder, caches], tiny.backbone("llama"), any_base=True)


def test_files_that_are_no_adapter_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        read_peft(tmp_path)
    folder = Path(export_peft(branches("llama")[0], 0, tmp_path / "mine"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="LORA"):
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
