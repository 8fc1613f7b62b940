"""LoRA on a copy of the backbone, through PEFT; only its own weights train and are stored."""

from typing import Any

from torch import Tensor

from cpool.backbones import Backbone
from cpool.errors import MissingDependencyError

__all__ = ["add_lora"]


def add_lora(
    trunk: Backbone, rank: int, alpha: int, dropout: float, targets: tuple[str, ...] | None
) -> None:
    """Put low-rank updates beside linear layers of a trainable copy, and freeze all else.

    Args:
        trunk: from `trainable_copy`.
        rank, alpha, dropout: `W + (alpha / rank) B A`, A ∈ R^{rank×in}.
        targets: names of the layers; PEFT's choice for the kind of model when None.

    Raises:
        MissingDependencyError: PEFT is not installed.
        ValueError: layers that the model does not have (PEFT's own message).
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError(
            expected="the package peft, which computes LoRA",
            got=f"{error}",
            remedy="Run: pip install 'continual-prompt-pool[peft]'.",
        ) from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=None if targets is None else list(targets),
        fan_in_fan_out=trunk.family == "gpt2",  # its layers keep their weights transposed
    )
    trunk.requires_grad_(False)
    whole = trunk.language_model if trunk.kind == "seq2seq" else trunk.model
    inject_adapter_in_model(config, whole)  # its updates require gradients
    trained = {name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    module: Any = trunk  # the hooks are untyped in torch
    module.register_state_dict_post_hook(_keep_only(trained))
    module.register_load_state_dict_pre_hook(_fill_in)


def _keep_only(trained: set[str]) -> Any:
    def keep(module: Any, state: dict[str, Tensor], prefix: str, _: Any) -> None:
        for name in [n for n in state if n.startswith(prefix)]:
            if name.removeprefix(prefix) not in trained:
                del state[name]

    return keep


def _fill_in(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Take what a checkpoint leaves out from what is there: frozen weights are the backbone's."""
    for place, part in module.named_modules(remove_duplicate=False):
        start = f"{prefix}{place}{'.' if place else ''}"
        for name, tensor in {**part._parameters, **part._buffers}.items():
            kept = tensor is not None and name not in part._non_persistent_buffers_set
            if kept and not tensor.requires_grad:
                state.setdefault(start + name, tensor.detach())
