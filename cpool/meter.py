"""What a method costs: parameters, bytes, memory and FLOPs, measured and never guessed."""

import contextlib
import threading
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from cpool.model import PromptedModel

__all__ = ["PeakMemory", "flops_per_sample", "stored_bytes", "trained_parameters"]


def trained_parameters(model: PromptedModel) -> int:
    """Return how many parameters a gradient trained over the whole stream, each counted once.

    Frozen blocks of earlier tasks count: they were trained. Closed-form statistics do not.
    """
    # nn.Module's own iteration is used, since the model's leaves frozen blocks out.
    return sum(p.numel() for _, p in nn.Module.named_parameters(model))


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
