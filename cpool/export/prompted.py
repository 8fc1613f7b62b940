"""export_prompted: a frozen model under a fixed selection, from inputs to logits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpool.backbones import Backbone
from cpool.checkpoint import describe_method
from cpool.errors import BackboneError, ConfigError
from cpool.export._answer import FixedHead
from cpool.export._fixed import Slots, fixed_prompts, fixed_selections, refuse_live
from cpool.export._pass import FixedPass, refuse_words
from cpool.export._program import Format, checked_path, write_program
from cpool.model import PromptedModel
from cpool.model_checks import need_task
from cpool.prompter import Prompter
from cpool.selection import Selection

__all__ = ["ImageProgram", "TextProgram", "described", "export_prompted", "inputs_of"]


class ImageProgram(nn.Module):
    """Pixels [B C H W] to features, and to logits where there is a head."""

    def __init__(self, features: FixedPass, head: FixedHead | None) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Answer images."""
        features: Tensor = self.features({"pixel_values": pixel_values})
        return features if self.head is None else self.head(features)


class TextProgram(nn.Module):
    """Tokens [B T] and their mask [B T] to features, and to logits where there is a head."""

    def __init__(self, features: FixedPass, head: FixedHead | None) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Answer texts."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        features: Tensor = self.features(inputs)
        return features if self.head is None else self.head(features)


def export_prompted(
    model: PromptedModel,
    path: str | Path,
    *,
    slots: Slots | None = None,
    task: int | None = None,
    format: Format = "torch",
    example: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the model with a fixed selection as a program from inputs to logits [B C].

    Column j is class `model.classes[j]`. Batch size and length of texts are free; texts are
    padded on either side, and their token types are those of a single text. Where neither slots
    nor a task are needed, since nothing is chosen by the query, both may be left out.

    Args:
        model: that has learned at least one task.
        path: where to; the suffix .pt2 or .onnx is added where there is none.
        slots: branch name → the slots that every sample gets, in their order, one after the
            other; or slot → weight where the policy sums them.
        task: instead of slots, those of a task; only its classes compete then, the others get
            −inf, as when the model is told the task.
        format: "torch", a program of `torch.export`; or "onnx".
        example: a batch of `model.prepare`, for images of another size than the model's own; only
            its shapes are read.

    Returns:
        The path of the program. What it is lies beside it, as `path` + ".json".

    Raises:
        BackboneError: prompts made inside the pass, answers in words, several passes a sample, or
            a fine-tuned copy of the backbone: no one frozen program.
        ConfigError: slots that are not named, or of another branch; no such task; or both.
        PoolError: slots that do not exist or were never trained.
        StateError: a model without a task, or in the middle of one.
        MissingDependencyError: ONNX without the extra `onnx`.

    Example:
        >>> import cpool, tempfile, torch
        >>> from cpool.export import export_prompted
        >>> stream = cpool.load_stream("split_digits", tasks=5, train_per_class=5)
        >>> learner = cpool.Learner(cpool.NCM().build(cpool.load_backbone("embedded")), quiet=True)
        >>> learner.fit_task(stream[0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export_prompted(learner.model, f"{folder}/digits")
        ...     program = torch.export.load(path).module()
        >>> program(**learner.model.backbone.prepare(stream[0].test.x[:3])).shape
        torch.Size([3, 2])
    """
    file = checked_path(path, format)
    need_task(bool(model.tasks))
    if task is not None and not 0 <= task < len(model.tasks):
        raise ConfigError(
            expected=f"a task from 0 to {len(model.tasks) - 1}",
            got=f"task={task}",
            remedy="Choose a task that was learned.",
        )
    _refuse(model, slots, task)
    selections = fixed_selections(model.prompter, slots, task)
    prompts = fixed_prompts(model.backbone, model.prompter, selections)
    first = next(iter(selections.values()), None)
    slot = None if first is None else int(first.index[0, 0])
    allowed = None if task is None else model.tasks[task]
    head = FixedHead(model.head, slot, allowed)
    features = FixedPass(model.backbone, model.readout, prompts)
    about = {
        "program": "prompted",
        **described(model),
        "classes": [int(c) for c in model.classes],
        "task": task,
        "slots": _chosen(model.prompter, selections),
    }
    return write_frozen(features, head, "logits", file, format, example, about)


def write_frozen(
    features: FixedPass,
    head: FixedHead | None,
    output: str,
    file: Path,
    format: Format,
    example: Mapping[str, Tensor] | None,
    about: Mapping[str, Any],
) -> Path:
    """Write a pass of the frozen model, with a head or without, for any number of inputs."""
    backbone = features.backbone
    inputs, free = inputs_of(backbone, example, features.length)
    kind = ImageProgram if backbone.kind == "vision" else TextProgram
    return write_program(kind(features, head), inputs, free, [output], file, format, about)


def inputs_of(
    backbone: Backbone, example: Mapping[str, Tensor] | None, taken: int
) -> tuple[dict[str, Tensor], dict[str, dict[int, torch.export.Dim]]]:
    """Return blank inputs of two rows in the shape of an example, and which axes are free.

    Args:
        backbone: whose inputs.
        example: a batch; the backbone's smallest one by default.
        taken: positions that prompts take.
    """
    given = backbone.model_inputs(example or backbone.smallest_batch())
    batch = torch.export.Dim("batch")
    if backbone.kind == "vision":
        shape = given["pixel_values"].shape[1:]
        pixels = torch.zeros(2, *shape, device=backbone.device)
        return {"pixel_values": pixels}, {"pixel_values": {0: batch}}
    token = int(backbone.smallest_batch()["input_ids"][0, 0])
    ids = torch.full((2, 3), token, device=backbone.device)
    limit = backbone.position_limit
    # What comes after the prompts has to be more than one token: one would be broadcast.
    least, most = 2 + backbone.insert_at, None if limit is None else limit - taken
    tokens = torch.export.Dim("tokens", min=least, max=most)
    free = {0: batch, 1: tokens}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs, {"input_ids": free, "attention_mask": free}


def described(model: PromptedModel) -> dict[str, Any]:
    """Return whose program it is: method, backbone with its fingerprint, number of tasks."""
    method = model.method and describe_method(model.method)
    return {"method": method, "backbone": model.backbone.spec(), "tasks": len(model.tasks)}


def _refuse(model: PromptedModel, slots: Slots | None, task: int | None) -> None:
    if slots is not None and task is not None:
        raise ConfigError(
            expected="slots or a task",
            got="both",
            remedy="Leave one of them out: a task has slots.",
        )
    if model.trunk is not None:
        raise BackboneError(
            expected="a frozen backbone with prompts",
            got="a fine-tuned copy of it",
            remedy="Export model.trunk.model with the tools for any transformers model.",
        )
    refuse_words(model.readout)
    if model.prompter is not None:
        refuse_live(model.prompter)
    if model.passes.apart:
        raise BackboneError(
            expected="one pass a sample",
            got=f"{len(model.passes.names)}, one for each slot, whose features stand side by side",
            remedy="Serve the model itself, or use a method with one pass.",
        )


def _chosen(
    prompter: Prompter | None, selections: Mapping[str, Selection]
) -> dict[str, list[dict[str, Any]]]:
    """Return for each branch place, id, name and task of its slots, and weights in a sum."""
    made: dict[str, list[dict[str, Any]]] = {}
    for branch in prompter or ():
        selection, slots = selections[branch.name], branch.pool.slots
        made[branch.name] = rows = []
        for k, place in enumerate(selection.index[0].tolist()):
            slot = slots[place]
            row: dict[str, Any] = {"slot": place, "id": slot.id, "name": slot.name}
            row["task"] = slot.task
            if selection.weight is not None:
                row["weight"] = float(selection.weight[0, k])
            rows.append(row)
    return made
