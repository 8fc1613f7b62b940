"""Reading hidden states of inner layers by hooks that live as long as one forward."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from cpool.backbones._call import CALL
from cpool.errors import BackboneError

__all__ = ["States", "compiled"]


def compiled(model: nn.Module) -> bool:
    """Return True when the model was wrapped or set up by `torch.compile`."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def blocks_of(model: nn.Module, num_layers: int) -> list[nn.Module]:
    """Return the blocks of a model: its first list of as many modules as it has layers."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return list(module)
    return []


class States:
    """Captures the inputs and outputs of blocks of one model."""

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        self.num_layers = num_layers
        self.blocks = blocks_of(model, num_layers)
        # Made once: compiled code recognises a hook by its identity.
        self._hooks = [partial(_output_hook, i + 1) for i in range(num_layers)]

    @contextmanager
    def captured(self, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collect the states `wanted` (0 .. L-1; L is the model's own output) of the forward."""
        inner = [i for i in set(wanted) if i < self.num_layers]
        if inner and not self.blocks:
            raise BackboneError(
                expected=f"a list of {self.num_layers} blocks whose outputs can be read",
                got="a model without one",
                remedy="Use layers=(-1,), the final state.",
            )
        call = CALL.get()
        states: dict[int, Tensor] = {} if call is None else call.states
        with ExitStack() as stack:
            for i in inner:
                handle = (
                    self.blocks[i - 1].register_forward_hook(self._hooks[i - 1])
                    if i
                    else self.blocks[0].register_forward_pre_hook(_input_hook, with_kwargs=True)
                )
                stack.callback(handle.remove)
            yield states


def _output_hook(number: int, module: nn.Module, args: Any, output: Any) -> None:
    if (call := CALL.get()) is not None:
        call.states[number] = output[0] if isinstance(output, tuple) else output


def _input_hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    if (call := CALL.get()) is not None:
        call.states[0] = args[0] if args else kwargs["hidden_states"]
