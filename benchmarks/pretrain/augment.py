"""Drawings become images as a pen, a scanner or a camera might have made them.

Everything is drawn from one generator, so that a step's images follow from its seed alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

COARSE = (8, 8, 8, 10, 12, 16)
"""Sides to which parts of a batch are down-sampled; the rest keeps its resolution."""


def uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    """Uniform numbers between two bounds."""
    return low + (high - low) * torch.rand(shape, generator=rng)


def strokes(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Make strokes thicker or thinner by up to two pixels; thin ones are not worn away."""
    change = torch.randint(-2, 3, (len(images),), generator=rng)
    change = change * (torch.rand(len(images), generator=rng) < strength)
    out = images.clone()
    for amount in (1, 2):
        window = 2 * amount + 1
        thick, thin = change == amount, change == -amount
        out[thick] = F.max_pool2d(images[thick], window, 1, amount)
        worn = -F.max_pool2d(-images[thin], window, 1, amount)
        enough = worn.mean((1, 2, 3)) > 0.35 * images[thin].mean((1, 2, 3))
        out[thin] = torch.where(enough[:, None, None, None], worn, images[thin])
    return out


def affine(count: int, strength: float, rng: torch.Generator) -> Tensor:
    """Matrices that turn (≤ 15°), slant, stretch and shift: (count, 2, 3)."""
    angle = strength * uniform((count,), -0.26, 0.26, rng)
    slant = strength * uniform((count,), -0.35, 0.35, rng)
    across = 1 + strength * uniform((count,), -0.2, 0.3, rng)
    down = 1 + strength * uniform((count,), -0.2, 0.15, rng)
    cos, sin = angle.cos(), angle.sin()
    top = torch.stack([across * cos, across * (slant * cos - sin)], 1)
    bottom = torch.stack([down * sin, down * (slant * sin + cos)], 1)
    shift = strength * uniform((count, 2, 1), -0.1, 0.1, rng)
    return torch.cat([torch.stack([top, bottom], 1), shift], 2)


def elastic(count: int, size: int, strength: float, rng: torch.Generator) -> Tensor:
    """Smooth random displacements: (count, size, size, 2)."""
    knots = torch.randn((count, 2, 5, 5), generator=rng)
    knots = knots * uniform((count, 1, 1, 1), 0.0, 0.1 * strength, rng)
    field = F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1)


def warp(images: Tensor, size: int, strength: float, rng: torch.Generator) -> Tensor:
    """Bend and move images, and sample them at another size."""
    count = len(images)
    matrices = affine(count, strength, rng)
    grid = F.affine_grid(matrices, [count, 1, size, size], align_corners=False)
    grid = grid + elastic(count, size, strength, rng)
    return F.grid_sample(images, grid, align_corners=False)


def coarsen(images: Tensor, strength: float) -> Tensor:
    """Down-sample eighths of a batch and scale them up again; two eighths are left as they are."""
    size = images.shape[-1]
    parts = list(images.chunk(len(COARSE) + 2))
    for index, side in enumerate(COARSE[: min(len(parts), round(strength * len(COARSE)))]):
        small = F.adaptive_avg_pool2d(parts[index], side)
        parts[index] = F.interpolate(small, size=(size, size), mode="bilinear")
    return torch.cat(parts)


def ink(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Change contrast, add noise, and give some images other colours: three channels, 0 to 1."""
    count = len(images)
    images = (images * (1 + strength * uniform((count, 1, 1, 1), -0.3, 0.8, rng))).clamp(0, 1)
    deviation = uniform((count, 1, 1, 1), 0.0, 0.06 * strength, rng)
    images = images + torch.randn(images.shape, generator=rng) * deviation
    paper, pen = torch.zeros(count, 3, 1, 1), torch.ones(count, 3, 1, 1)
    kind = torch.rand(count, generator=rng)
    negative, coloured = kind < 0.15 * strength, kind > 1 - 0.15 * strength
    paper[negative], pen[negative] = 1.0, 0.0
    paper[coloured] = torch.rand((int(coloured.sum()), 3, 1, 1), generator=rng)
    pen[coloured] = torch.rand((int(coloured.sum()), 3, 1, 1), generator=rng)
    return (paper + (pen - paper) * images).clamp(0, 1)


def augment(drawings: Tensor, size: int, strength: float, rng: torch.Generator) -> Tensor:
    """Turn drawings (n, 48, 48), uint8, into images (n, 3, size, size) between −1 and 1.

    A strength of 0 leaves them as printed; 1 changes them as much as handwriting differs.
    """
    images = drawings[:, None].float() / 255
    images = warp(strokes(images, strength, rng), size, strength, rng)
    return ink(coarsen(images, strength), strength, rng) * 2 - 1
