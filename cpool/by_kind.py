"""Rows of a batch that cannot share a pass: each kind runs together, and all return in order."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from cpool.backbones import Backbone
from cpool.errors import PoolError
from cpool.inject import masks_prompts
from cpool.prompter import Prompts

__all__ = ["by_kind", "rows_of", "several_kinds"]


def several_kinds(backbone: Backbone, prompts: Prompts) -> bool:
    """Tell whether some rows of a batch cannot share a pass with others.

    That are rows which no slot fits, and so have no prompt; and rows with prompts of different
    length in a model that cannot hide the padding of the shorter ones.
    """
    fits = _fits(prompts)
    apart = fits is not None and not bool(fits.all())
    return apart or (_differ(prompts) and not masks_prompts(backbone))


def by_kind(
    backbone: Backbone,
    batch: Mapping[str, Tensor],
    prompts: Prompts | None,
    run: Callable[[Mapping[str, Tensor], Prompts | None], Tensor],
    pad: int = 0,
) -> Tensor:
    """Run the rows of each kind together.

    Args:
        backbone: that runs them.
        batch: B samples.
        prompts: theirs.
        run: gets some rows of both, no prompts for those that have none; returns [b N].
        pad: fills rows of a kind whose N is smaller.
    """
    if prompts is None or not several_kinds(backbone, prompts):
        return run(batch, prompts)
    fits = _fits(prompts)
    if fits is not None and not bool(fits.any()):
        return run(batch, None)
    size = len(fits) if fits is not None else len(next(iter(_masks(prompts))))
    keys = [key for key, value in batch.items() if len(value) == size]
    made, places = [], []
    for mask, part in _parts(backbone, prompts, fits, size):
        own = {key: batch[key][mask.to(batch[key].device)] for key in keys}
        made.append(run(own, part))
        # Several answers a row stand one after the other.
        each = len(made[-1]) // int(mask.sum())
        places.append(mask.nonzero()[:, 0].repeat_interleave(each))
    width = max(part.shape[1] for part in made)
    whole = [F.pad(part, (0, width - part.shape[1]), value=pad) for part in made]
    return torch.cat(whole)[torch.cat(places).argsort(stable=True)]


def _parts(
    backbone: Backbone, prompts: Prompts, fits: Bool[Tensor, " B"] | None, size: int
) -> list[tuple[Bool[Tensor, " B"], Prompts | None]]:
    """Return the rows of each kind and their prompts."""
    if fits is None:
        fits = torch.ones(size, dtype=torch.bool, device=_masks(prompts)[0].device)
    none = [] if bool(fits.all()) else [(~fits, None)]
    if not _differ(prompts) or masks_prompts(backbone):
        return [(fits, rows_of(prompts, fits)), *none]
    if prompts.live:
        raise PoolError(
            expected="slots of one length beside prompts that are made inside the pass",
            got="rows with prompts of different length",
            remedy="Use slots of one length, or a language model, which hides padding.",
        )
    parts: list[tuple[Bool[Tensor, " B"], Prompts | None]] = []
    counts = torch.stack([mask.sum(dim=1) for mask in _masks(prompts)], dim=1).to(fits.device)
    for kind in dict.fromkeys(map(tuple, counts[fits].tolist())):
        rows = fits & (counts == counts.new_tensor(kind)).all(dim=1)
        parts.append((rows, _cut(rows_of(prompts, rows))))
    return [*parts, *none]


def _cut(prompts: Prompts) -> Prompts:
    """Drop the padding of rows that are as long as one another; it stands in front in all."""
    tokens, layers = prompts.tokens, dict(prompts.layers)
    if prompts.real is not None and tokens is not None:
        tokens = tokens[:, prompts.real[0]]
    for layer, span in prompts.spans.items():
        key, value = layers[layer]
        layers[layer] = key[:, :, span[0]], value[:, :, span[0]]
    return prompts._replace(tokens=tokens, layers=layers, real=None, spans={})


def _masks(prompts: Prompts) -> list[Bool[Tensor, "B _"]]:
    own = [] if prompts.real is None else [prompts.real]
    return [*own, *prompts.spans.values()]


def _differ(prompts: Prompts) -> bool:
    return bool(_masks(prompts))


def _fits(prompts: Prompts) -> Bool[Tensor, " B"] | None:
    """Return which samples have a prompt that fits them; None when all have."""
    told = [s.fits for s in prompts.selections.values() if s.fits is not None]
    return torch.stack(told).all(dim=0) if told else None


def rows_of(prompts: Prompts, mask: Bool[Tensor, " B"]) -> Prompts:
    """Return the prompts of some samples; a batch axis of 1 stays."""

    def part(tensor: Tensor) -> Tensor:
        if len(tensor) > 1 and tensor.stride(0) == 0:  # one row expanded; it stays one
            return tensor[:1].expand(int(mask.sum()), *tensor.shape[1:])
        return tensor if len(tensor) == 1 else tensor[mask.to(tensor.device)]

    tokens = None if prompts.tokens is None else part(prompts.tokens)
    layers = {n: (part(key), part(value)) for n, (key, value) in prompts.layers.items()}
    chosen = {
        name: s if s.fits is None else s._replace(fits=part(s.fits))
        for name, s in prompts.selections.items()
    }
    real = None if prompts.real is None else part(prompts.real)
    spans = {n: part(span) for n, span in prompts.spans.items()}
    return prompts._replace(tokens=tokens, layers=layers, selections=chosen, real=real, spans=spans)
