"""A ViT of `tests.tiny` written out for one image, in float64, with prefixes from a callback."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests import tiny

Prefix = Callable[[int, Tensor], tuple[Tensor, Tensor] | None]


def weights(kind: str = "vit") -> dict[str, Tensor]:
    """Return the weights of the shared tiny model in float64."""
    return {k: v.detach().double() for k, v in tiny.backbone(kind).model.state_dict().items()}


def encode(w: dict[str, Tensor], image: Tensor, prefix: Prefix) -> Tensor:
    """Return the final [CLS] state [D] of one image [3 height width].

    Args:
        w: the weights.
        image: pixels as the backbone gets them.
        prefix: from a layer's number and the state [T D] that enters it to keys and values, each
            [N D] with the heads side by side, or None.
    """
    state = _embed(w, image.double())
    number = 0
    while f"layers.{number}.layernorm_before.weight" in w:
        state = _block(w, f"layers.{number}.", state, prefix(number, state))
        number += 1
    assert number == tiny.DEPTH
    return _norm(w, "layernorm", state)[0]


def _embed(w: dict[str, Tensor], image: Tensor) -> Tensor:
    kernel = w["embeddings.patch_embeddings.projection.weight"]
    rows = [w["embeddings.cls_token"][0, 0]]
    for top in range(0, tiny.IMAGE, tiny.PATCH):
        for left in range(0, tiny.IMAGE, tiny.PATCH):
            patch = image[:, top : top + tiny.PATCH, left : left + tiny.PATCH]
            row = torch.stack([(k * patch).sum() for k in kernel])
            rows.append(row + w["embeddings.patch_embeddings.projection.bias"])
    return torch.stack(rows) + w["embeddings.position_embeddings"][0]


def _norm(w: dict[str, Tensor], name: str, state: Tensor) -> Tensor:
    rows = []
    for row in state:
        centred = row - row.mean()
        rows.append(centred / ((centred**2).mean() + 1e-12).sqrt())
    return torch.stack(rows) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _linear(w: dict[str, Tensor], name: str, state: Tensor) -> Tensor:
    return state @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _block(w: dict[str, Tensor], at: str, state: Tensor, prefix: Any) -> Tensor:
    inside = _norm(w, f"{at}layernorm_before", state)
    query, key, value = (_linear(w, f"{at}attention.{n}_proj", inside) for n in "qkv")
    if prefix is not None:
        key, value = torch.cat([prefix[0], key]), torch.cat([prefix[1], value])
    width = tiny.WIDTH // tiny.HEADS
    heads = []
    for head in range(tiny.HEADS):
        part = slice(head * width, (head + 1) * width)
        score = query[:, part] @ key[:, part].T / math.sqrt(width)
        shares = score.exp() / score.exp().sum(dim=1, keepdim=True)
        heads.append(shares @ value[:, part])
    state = state + _linear(w, f"{at}attention.o_proj", torch.cat(heads, dim=1))
    inside = _linear(w, f"{at}mlp.fc1", _norm(w, f"{at}layernorm_after", state))
    inside = inside * (1 + torch.erf(inside / math.sqrt(2))) / 2
    return state + _linear(w, f"{at}mlp.fc2", inside)


def leaf(tensor: Tensor) -> Tensor:
    """Return a float64 copy that collects a gradient."""
    return tensor.detach().double().clone().requires_grad_()


def cross_entropy(logits: Tensor, labels: list[int], allowed: list[int] | None = None) -> Tensor:
    """Return the mean of −log softmax at the labels, among the allowed columns."""
    terms = []
    for row, label in zip(logits, labels, strict=True):
        columns = list(range(len(row))) if allowed is None else allowed
        terms.append(torch.log(torch.stack([row[c].exp() for c in columns]).sum()) - row[label])
    return torch.stack(terms).mean()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return γ(a, b)."""
    return (a * b).sum() / ((a**2).sum().sqrt() * (b**2).sum().sqrt())


def same(ours: Tensor | None, wanted: Tensor | None, tolerance: float = 2e-4) -> bool:
    """Return whether a float32 result is the float64 one, relative to its largest number."""
    assert ours is not None and wanted is not None
    ours, wanted = ours.detach(), wanted.detach()
    scale = float(wanted.abs().max()) or 1.0
    return bool(((ours.double() - wanted).abs().max() / scale) < tolerance)


def batch(labels: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Return a batch of random images with these labels."""
    return {**tiny.batch("vit", len(labels), seed), "labels": torch.tensor(labels)}
