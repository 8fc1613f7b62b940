"""Quantised layers: which of them cannot train, and which pass no gradient on."""

from torch import nn

from cpool.errors import BackboneError

__all__ = ["check_gradient", "check_trains"]

# Layers whose operators torch has no derivative of: a backward pass leaves them out with a warning.
_TORCH = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def check_trains(model: nn.Module, name: str) -> None:
    """Refuse a model whose weights no gradient can change.

    Args:
        model: of which a copy shall train.
        name: what people call it.

    Raises:
        BackboneError: weights that are whole numbers, or kept packed.
    """
    for path, layer in model.named_modules():
        kinds = {p.dtype for p in layer.parameters(recurse=False) if not p.is_floating_point()}
        if kinds or _of_torch(layer):
            stored = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            raise BackboneError(
                expected="weights of floating-point numbers, to train a copy of them or LoRA "
                "beside them",
                got=f"{path!r} of {name!r}, a {type(layer).__name__} of "
                f"{stored or 'packed'} weights",
                remedy="Load the model without quantisation, or train prompts, whose gradient goes "
                "through 4- and 8-bit layers of bitsandbytes.",
            )


def check_gradient(model: nn.Module, name: str) -> None:
    """Refuse a model through which no right gradient goes, so that prompts would learn noise.

    Args:
        model: in front of which something shall train.
        name: what people call it.

    Raises:
        BackboneError: layers that torch quantised.
    """
    for path, layer in model.named_modules():
        if _of_torch(layer):
            raise BackboneError(
                expected="layers with a derivative, to train prompts in front of them",
                got=f"{path!r} of {name!r}, a {type(layer).__name__} quantised by torch, which has "
                "none",
                remedy="Train on the model before it is quantised, or choose a method that trains "
                "nothing in front of it, such as zero_shot or ncm.",
            )


def _of_torch(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith(_TORCH)
