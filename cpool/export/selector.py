"""export_selector and export_query: what chooses the slots, and what it looks at."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpool.errors import ConfigError
from cpool.export._fixed import refuse_live
from cpool.export._pass import FixedPass
from cpool.export._policies import Chooser, chooser_of
from cpool.export._program import Format, checked_path, write_program
from cpool.export.prompted import described, write_frozen
from cpool.model import PromptedModel
from cpool.model_checks import need_task

__all__ = ["SelectorProgram", "export_query", "export_selector"]


class SelectorProgram(nn.Module):
    """Queries to what each branch chooses.

    Args:
        choosers: branch name → what chooses its slots.

    Attributes:
        names: of what `forward` returns, such as "expert.slots".
    """

    def __init__(self, choosers: Mapping[str, Chooser]) -> None:
        super().__init__()
        self.choosers = nn.ModuleDict(choosers)
        self.names = [f"{name}.{what}" for name, part in choosers.items() for what in part.names]

    def forward(self, query: Float[Tensor, "B Q"]) -> tuple[Tensor, ...]:
        """Choose the slots of every branch."""
        return tuple(out for part in self.choosers.values() for out in part(query))


@torch.no_grad()
def export_selector(model: PromptedModel, path: str | Path, *, format: Format = "torch") -> Path:
    """Write what chooses the slots at test as a program from queries [B Q].

    For each branch it returns "BRANCH.slots" [B K], best first; "BRANCH.nearness" [B K] where the
    policy compares (cosines, or minus distances); "BRANCH.weights" [B K] where it sums slots; and
    "BRANCH.fits" [B] where it has a threshold. The JSON beside it names these in their order.
    Queries come from `export_query`.

    Args:
        model: that has learned at least one task.
        path: where to; the suffix .pt2 or .onnx is added where there is none.
        format: "torch" or "onnx".

    Returns:
        The path of the program.

    Raises:
        BackboneError: a branch whose query comes from inside the prompted pass.
        ConfigError: no prompts, or a policy that cannot be exported.
        StateError: a model without a task.
        MissingDependencyError: ONNX without the extra `onnx`.

    Example:
        >>> import cpool, tempfile, torch
        >>> from cpool.export import export_selector
        >>> model = cpool.L2P(pool_size=4, top_k=2).build(cpool.load_backbone("embedded"))
        >>> model.begin_task([0, 1])
        0
        >>> branch = next(iter(model.prompter))
        >>> branch.pool.mark_trained(torch.arange(4)[:, None])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export_selector(model, f"{folder}/selector")
        ...     slots, nearness = torch.export.load(path).module()(query=torch.randn(5, 128))
        >>> slots.shape
        torch.Size([5, 2])
    """
    file = checked_path(path, format)
    need_task(bool(model.tasks))
    if model.prompter is None:
        raise ConfigError(
            expected="a method with prompts to select from",
            got="a baseline without any",
            remedy="Export it with export_prompted.",
        )
    refuse_live(model.prompter)
    program = SelectorProgram(
        {
            branch.name: chooser_of(
                branch.name, branch.policy, branch.pool.available(training=False)
            )
            for branch in model.prompter
        }
    )
    about = {
        "program": "selector",
        **described(model),
        "slots": {
            branch.name: [
                {"slot": place, "id": slot.id, "name": slot.name, "task": slot.task}
                for place, slot in enumerate(branch.pool.slots)
            ]
            for branch in model.prompter
        },
    }
    query = torch.zeros(2, model.backbone.query_size, device=model.backbone.device)
    free = {"query": {0: torch.export.Dim("batch")}}
    return write_program(program, {"query": query}, free, program.names, file, format, about)


def export_query(
    model: PromptedModel,
    path: str | Path,
    *,
    format: Format = "torch",
    example: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the frozen model without prompts as a program from inputs to queries [B Q].

    Args:
        model: whose backbone it is.
        path: where to; the suffix .pt2 or .onnx is added where there is none.
        format: "torch" or "onnx".
        example: as for `export_prompted`.

    Returns:
        The path of the program.

    Raises:
        BackboneError: a compiled backbone.
        MissingDependencyError: ONNX without the extra `onnx`.
    """
    file = checked_path(path, format)
    features = FixedPass(model.backbone, "query", None)
    about = {"program": "query", **described(model)}
    return write_frozen(features, None, "query", file, format, example, about)
