"""PEFT: slots as adapters that PEFT loads, and adapters of PEFT as slots.

Read and written are the files alone, `adapter_config.json` and `adapter_model.safetensors`, so
PEFT need not be installed. Kinds: PROMPT_TUNING and MULTITASK_PROMPT_TUNING (tokens in front of the
embeddings), PREFIX_TUNING and CARTRIDGE (keys and values in front of those of every layer). Of an
encoder–decoder, tokens in front of the encoder's embeddings, and prefixes in its decoder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from cpool._io import read_json, write_bytes, write_json
from cpool.backbones import Backbone
from cpool.errors import CheckpointError, ConfigError, CpoolError, DataError, PoolError
from cpool.inject.start import start_values
from cpool.pool import PromptPool
from cpool.prompter import Branch, EmbeddingSite, PrefixSite, Prompter, Site
from cpool.ready_pool import pool_of
from cpool.routed import routed

__all__ = ["Adapter", "export_peft", "pool_from_peft", "prompter_from_peft", "read_peft"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING")
CACHES = ("PREFIX_TUNING", "CARTRIDGE")

TaskType: TypeAlias = Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"]


class Adapter(NamedTuple):
    """A prompt-learning adapter of PEFT, as a slot holds it.

    Attributes:
        kind: PEFT's name of it.
        values: [S P W]; S is 1 for tokens, and 2 a layer, keys then values, for a cache.
        heads: key-value heads of a cache; 0 for tokens.
        base: name of the base model, as the adapter gives it.
        seq2seq: whether it is a cache for the decoder of an encoder–decoder.
    """

    kind: str
    values: Float[Tensor, "S P W"]
    heads: int
    base: str | None
    seq2seq: bool = False


def read_peft(folder: str | Path, *, task: int | None = None) -> Adapter:
    """Read an adapter as PEFT's `save_pretrained` writes it.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        task: which task of a multitask adapter is baked in: `P* ⊙ (u_t v_tᵀ)`.

    Raises:
        CheckpointError: no adapter there, another kind, or tensors that do not fit its config.
    """
    folder = Path(folder)
    config = _config(folder)
    kind = config.get("peft_type")
    if kind not in TOKENS + CACHES:
        raise CheckpointError(
            expected=f"an adapter that learns a prompt ({', '.join(TOKENS + CACHES)})",
            got=f"{kind} in {folder}",
            remedy="Other adapters change the model's weights; merge them into a model instead.",
        )
    wanted = ["num_virtual_tokens", "token_dim"]
    wanted += ["num_layers", "num_attention_heads"] if kind in CACHES else []
    if missing := [key for key in wanted if not isinstance(config.get(key), int)]:
        raise CheckpointError(
            expected=f"the numbers {', '.join(wanted)} in {folder / CONFIG}",
            got=f"no {', '.join(missing)}",
            remedy="Save the adapter again with PEFT.",
        )
    tensors = _tensors(folder)
    length, width = config["num_virtual_tokens"], config["token_dim"]
    halves = config.get("num_transformer_submodules") or 1
    if halves == 2 and kind == "MULTITASK_PROMPT_TUNING":
        raise CheckpointError(
            expected="a prompt in front of the encoder alone, or an adapter of a decoder",
            got=f"{kind} in {folder}, which has one in the decoder of an encoder–decoder, too",
            remedy="Tune the model with PROMPT_TUNING or PREFIX_TUNING.",
        )
    # PROMPT_TUNING of an encoder–decoder stores rows for both, of which PEFT reads the first half.
    rows = tensors["prompt_embeddings"][:length].float()
    sites = 2 * config["num_layers"] if kind in CACHES else 1
    if tuple(rows.shape) != (length, sites * width):
        raise CheckpointError(
            expected=f"prompt_embeddings of shape {(length, sites * width)}, as {CONFIG} says",
            got=f"{tuple(rows.shape)} in {folder}",
            remedy="Save the adapter again with PEFT.",
        )
    if kind == "MULTITASK_PROMPT_TUNING":
        rows = rows * _low_rank(tensors, task, folder)
    values = rows.view(length, sites, width).transpose(0, 1).contiguous()
    heads = config["num_attention_heads"] if kind in CACHES else 0
    seq2seq = halves == 2 and kind in CACHES
    if seq2seq:
        values = _stepped(values)
    return Adapter(str(kind), values, heads, config.get("base_model_name_or_path"), seq2seq)


# PEFT (0.21) cuts the stored rows of an encoder–decoder, twice over, into pieces of keys,
# values, keys, values, of which its decoder's layers take the first two. So layer i gets what is
# stored as layer 2i mod L, and every other stored layer goes nowhere.


def _stepped(stored: Float[Tensor, "_ P W"]) -> Float[Tensor, "_ P W"]:
    """Return the keys and values that a decoder's layers get of those that PEFT stores."""
    layers = stored.view(-1, 2, *stored.shape[1:])
    return layers[2 * torch.arange(len(layers)) % len(layers)].flatten(0, 1)


def _spread(values: Float[Tensor, "_ P W"]) -> Float[Tensor, "_ P W"]:
    """Return what PEFT has to store so that a decoder's layers get these keys and values."""
    layers = values.view(-1, 2, *values.shape[1:])
    return torch.stack([layers, torch.zeros_like(layers)], dim=1).flatten(0, 2)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = read_json(folder / CONFIG)
    except (CpoolError, OSError) as error:
        raise CheckpointError(
            expected=f"a folder with {CONFIG} and {WEIGHTS}",
            got=f"{folder}: {error}",
            remedy="Name the folder that PEFT's save_pretrained wrote.",
        ) from error
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        tensors = load_bytes((folder / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            expected=f"{WEIGHTS} in {folder}",
            got=str(error),
            remedy="Save the adapter with safetensors; other formats are not read.",
        ) from error
    if "prompt_embeddings" not in tensors:
        raise CheckpointError(
            expected=f"a tensor prompt_embeddings in {folder / WEIGHTS}",
            got=", ".join(sorted(tensors)),
            remedy="Save the adapter again with PEFT.",
        )
    return tensors


def _low_rank(tensors: Mapping[str, Tensor], task: int | None, folder: Path) -> Tensor:
    columns, rows = tensors["prefix_task_cols"].float(), tensors["prefix_task_rows"].float()
    if task is None or not 0 <= task < len(columns):
        raise CheckpointError(
            expected=f"task=0 to {len(columns) - 1}, a task of the multitask adapter {folder}",
            got=f"task={task}",
            remedy="Say whose prompt shall be read.",
        )
    return columns[task] @ rows[task]


def export_peft(
    branch: Branch,
    slot: int,
    folder: str | Path,
    *,
    base: str | None = None,
    task_type: TaskType = "CAUSAL_LM",
    cartridge: bool = False,
    backbone: Backbone | None = None,
) -> Path:
    """Write a slot as an adapter of PEFT for a language model.

    Tokens become PROMPT_TUNING, also those of a multitask prompt, `P* ⊙ (u_t v_tᵀ)` multiplied out;
    prefixes become PREFIX_TUNING. Those of an encoder–decoder take twice the room there: what PEFT
    hands over is every other layer that it stores.

    Args:
        branch: of a prompter; at the embedding, or with prefixes on all layers.
        slot: its place in the pool.
        folder: where to; made if it is not there.
        base: name or path of the base model that the config names.
        task_type: PEFT's name of what the base model is: "SEQ_2_SEQ_LM" for T5.
        cartridge: write prefixes as CARTRIDGE, PEFT's kind for a distilled document: the same keys
            and values.
        backbone: that the slot is of; needed where it stands behind a text's start token. In PEFT
            prompts are in front of all, so the start token becomes the first of the prompt, and
            texts are to be read without theirs (`add_special_tokens=False`).

    Raises:
        PoolError: no such slot, prefixes that PEFT has no place for, a cartridge of tokens or for
            an encoder–decoder, or a slot behind a start token without its backbone.
        ConfigError: another task_type.
    """
    if task_type not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        raise ConfigError(
            expected='task_type "CAUSAL_LM", or "SEQ_2_SEQ_LM" for an encoder–decoder',
            got=repr(task_type),
            remedy="Choose what the base model is; the slot alone does not tell.",
        )
    if cartridge and not isinstance(branch.site, PrefixSite):
        raise PoolError(
            expected="prefixes on all layers, for a CARTRIDGE",
            got=f"{branch.site} in branch {branch.name!r}",
            remedy="Write prompt tokens with cartridge=False, as PROMPT_TUNING.",
        )
    folder, site, halves = Path(folder), branch.site, 2 if task_type == "SEQ_2_SEQ_LM" else 1
    if halves == 2 and cartridge:
        raise PoolError(
            expected="a slot of a decoder, for a CARTRIDGE",
            got=f"task_type {task_type!r}",
            remedy="Write it with cartridge=False, as PREFIX_TUNING.",
        )
    place = branch.pool.check_slot(slot)
    length = branch.pool.length_of(place)
    values = branch.pool.read(torch.tensor(place)).detach().float().cpu()[:, :length]
    if site.after_start:
        values = torch.cat([_start(branch, backbone), values], dim=1)
        length += 1
    sites, _, width = values.shape
    config: dict[str, Any] = {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "num_transformer_submodules": halves,
        "num_virtual_tokens": length,
        "task_type": task_type,
        "token_dim": width,
    }
    if isinstance(site, EmbeddingSite):
        config |= {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}
    else:
        if site.layers != tuple(range(len(site.layers))) or site.halves or site.live:
            raise PoolError(
                expected="prefixes on all layers from 0, keys and values apart, as PEFT has them",
                got=f"{site} in branch {branch.name!r}",
                remedy="Export slots of a method with a prefix on every layer.",
            )
        if halves == 2:
            values = _spread(values)
        sites = len(values)
        config |= {"num_attention_heads": site.heads, "num_layers": sites // 2}
        if cartridge:
            config |= {"peft_type": "CARTRIDGE", "num_frozen_tokens": 1}
        else:
            config |= {
                "peft_type": "PREFIX_TUNING",
                "encoder_hidden_size": width,
                "prefix_projection": False,
            }
    rows = values.transpose(0, 1).reshape(length, sites * width)
    if isinstance(site, EmbeddingSite):
        # PEFT stores rows for encoder and decoder, and of these reads the first half.
        rows = rows.repeat(halves, 1)
    folder.mkdir(parents=True, exist_ok=True)
    data = save_bytes({"prompt_embeddings": rows}, metadata={"format": "pt"})
    write_bytes(folder / WEIGHTS, data)
    write_json(folder / CONFIG, config)
    return folder


def _start(branch: Branch, backbone: Backbone | None) -> Float[Tensor, "_ 1 W"]:
    """Return what a start token is at the site of a branch."""
    if backbone is None or backbone.start_token is None:
        raise PoolError(
            expected="backbone=…, whose start token the slot stands behind",
            got="none" if backbone is None else f"{backbone.name!r}, which has no start token",
            remedy="Pass the backbone that the slot was trained on.",
        )
    return start_values(backbone, prefix=isinstance(branch.site, PrefixSite)).float().cpu()


def pool_from_peft(
    folders: Sequence[str | Path],
    backbone: Backbone,
    *,
    task: int | None = None,
    any_base: bool = False,
) -> tuple[PromptPool, Site]:
    """Return a pool with one frozen slot an adapter, named as its folder, and where they enter.

    The pool is as long as the longest adapter; the slots of others are shorter.

    Args:
        folders: adapters of one kind, tokens or prefixes.
        backbone: the base model that they were trained on.
        task: of multitask adapters.
        any_base: take adapters that name another base model, too.

    Raises:
        CheckpointError: what is no adapter, or does not fit the backbone or the others.
    """
    if not folders:
        raise DataError(expected="at least one adapter", got="none", remedy="Name its folder.")
    adapters = [read_peft(folder, task=task) for folder in folders]
    for folder, adapter in zip(folders, adapters, strict=True):
        _check(Path(folder), adapter, backbone, any_base)
        if (adapter.kind in CACHES) != (adapters[0].kind in CACHES):
            raise CheckpointError(
                expected=f"adapters of one kind, {adapters[0].kind} as in {folders[0]}",
                got=f"{adapter.kind} in {folder}",
                remedy="Make a pool of tokens and one of prefixes.",
            )
    first = adapters[0]
    names = [Path(folder).name for folder in folders]
    pool = pool_of([_own(adapter, backbone) for adapter in adapters], names)
    cache = first.kind in CACHES
    layers = tuple(range(backbone.prefix_layers))
    return pool, PrefixSite(layers, first.heads) if cache else EmbeddingSite()


def _check(folder: Path, adapter: Adapter, backbone: Backbone, any_base: bool) -> None:
    cache = adapter.kind in CACHES
    if cache and adapter.seq2seq != (backbone.kind == "seq2seq"):
        whose = {True: "an encoder–decoder", False: "a decoder"}
        raise CheckpointError(
            expected=f"an adapter for {backbone.name!r}, {whose[not adapter.seq2seq]}",
            got=f"{adapter.kind} for {whose[adapter.seq2seq]} in {folder}",
            remedy="Load the base model that it was trained on.",
        )
    layers = backbone.prefix_layers if cache else 1
    width = backbone.num_kv_heads * backbone.head_dim if cache else backbone.hidden_size
    sites = 2 * layers if cache else 1
    held = len(_own(adapter, backbone))
    if held != sites or adapter.values.shape[2] != width:
        raise CheckpointError(
            expected=f"an adapter for {backbone.name!r}, of width {width}"
            + (f" on {layers} layers" if cache else ""),
            got=f"{folder}: width {adapter.values.shape[2]}"
            + (f" on {held // 2} layers" if cache else "")
            + f", for {adapter.base!r}",
            remedy="Load the base model that it was trained on.",
        )
    if any_base or not adapter.base or _short(adapter.base) == _short(backbone.name):
        return
    raise CheckpointError(
        expected=f"an adapter for {backbone.name!r}",
        got=f"{folder}, which names {adapter.base!r}",
        remedy="Load that base model, or pass any_base=True where both are the same weights.",
    )


def _own(adapter: Adapter, backbone: Backbone) -> Tensor:
    """Return the values that a backbone has a place for.

    For an encoder–decoder PEFT stores as many layers as its encoder has, or more.
    """
    return adapter.values[: 2 * backbone.prefix_layers] if adapter.seq2seq else adapter.values


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def prompter_from_peft(
    folders: Sequence[str | Path],
    texts: Sequence[Sequence[str]],
    backbone: Backbone,
    *,
    centroids: int = 5,
    task: int | None = None,
    any_base: bool = False,
) -> Prompter:
    """Return a prompter that sends each text to the adapter whose texts are nearest.

    The adapters stay as they are; their keys are k-means centres of the unprompted features of a
    few texts of each (`NearestCentroid`), so that a pool over adapters of other people routes.

    Args:
        folders: adapters of one kind, tokens or prefixes.
        texts: some texts of the use of each, in the same order.
        backbone: the base model that they were trained on.
        centroids: centres an adapter.
        task: of multitask adapters.
        any_base: take adapters that name another base model, too.

    Raises:
        CheckpointError: as `pool_from_peft`.
        DataError: texts for other than each adapter, or none for one.
    """
    pool, site = pool_from_peft(folders, backbone, task=task, any_base=any_base)
    return routed("peft", pool, site, texts, backbone, centroids=centroids)
