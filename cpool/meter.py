"""What a method costs: parameters, bytes, memory and FLOPs, measured and never guessed."""

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cpool.model import PromptedModel

__all__ = [
    "COSTS",
    "PeakMemory",
    "TrainedCount",
    "flops_per_sample",
    "stored_bytes",
    "trained_parameters",
]

COSTS = 2
"""How costs are measured, in every run's results. Since 2 the timed evaluation prepares its images
itself, and parameters count as trained that were thrown away later, or lie in buffers; before, the
images were found prepared, and all parameters of the finished model counted, trained or not."""


class TrainedCount:
    """The sizes of all parameters that an optimiser ever held, each counted once.

    What a method throws away after a task, such as a probe, stays counted; what never trained,
    such as random prompts, is not. In memory a parameter is known by itself, in a checkpoint by
    its name.

    Args:
        model: whose parameters are counted; those that it has learned tasks with count already.
        state: from `state`, of the same model; None where there is none.

    Attributes:
        total: the count so far.
    """

    def __init__(self, model: PromptedModel, state: Mapping[str, Any] | None = None) -> None:
        self.total = 0
        self._known: dict[int, weakref.ref[nn.Parameter]] = {}
        # nn.Module's own iteration, since the model's leaves frozen blocks out.
        there = dict(nn.Module.named_parameters(model))
        if state is not None:
            self._note([there[name] for name in state["names"]])
            self.total = int(state["total"])
        elif model.tasks:
            self._note(there.values())

    def add(self, model: PromptedModel) -> None:
        """Count what trains now; to be called for every new optimiser."""
        self._note(model.parameters())

    def _note(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if not self._knows(parameter):
                self._known[id(parameter)] = weakref.ref(parameter)
                self.total += parameter.numel()

    def _knows(self, parameter: nn.Parameter) -> bool:
        # A parameter that was thrown away leaves its id to later ones.
        known = self._known.get(id(parameter))
        return known is not None and known() is parameter

    def state(self, model: PromptedModel) -> dict[str, Any]:
        """Return what a checkpoint keeps (JSON): the count, and the names of what is in it."""
        there = nn.Module.named_parameters(model)
        return {"total": self.total, "names": [name for name, p in there if self._knows(p)]}


def trained_parameters(model: PromptedModel, count: TrainedCount) -> int:
    """Return how many parameters were trained by gradients over the whole stream.

    Frozen blocks of earlier tasks and what was thrown away count: they were trained. Closed-form
    statistics do not. Parts that train tensors of their own, outside the learner's optimiser, say
    how many by an attribute `trained_extra`.

    Args:
        model: after its last task.
        count: of its learner.
    """
    return count.total + sum(int(getattr(part, "trained_extra", 0)) for part in model.modules())


def stored_bytes(model: PromptedModel) -> int:
    """Return the bytes of all that a method has to store, beside the frozen backbone."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def flops_per_sample(model: PromptedModel, batch: Mapping[str, Tensor]) -> int | None:
    """Return the floating point operations of predicting one sample, query pass included.

    Counted by torch's own counter on matrix products, convolutions and attention; None when it
    counted nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode

    inputs = {k: v[:1] for k, v in batch.items() if k not in ("labels", "query")}
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops() or None


class PeakMemory:
    """The peak memory while a method works: of the GPU when there is one, else of the process.

    On a CPU the resident memory of the whole process is sampled 20 times a second, the libraries
    and the backbone included, so compare it between runs of one machine only.
    """

    def __init__(self, device: torch.device, seconds: float = 0.05) -> None:
        self.device, self.seconds = device, seconds
        self.peak: int | None = None

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Measure while the block runs; the largest of several blocks is kept."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            yield
            self._keep(torch.cuda.max_memory_allocated(self.device))
            return
        import psutil  # type: ignore[import-untyped]

        process, stop = psutil.Process(), threading.Event()

        def sample() -> None:
            while True:
                self._keep(process.memory_info().rss)
                if stop.wait(self.seconds):
                    return

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _keep(self, value: int) -> None:
        self.peak = value if self.peak is None else max(self.peak, value)
