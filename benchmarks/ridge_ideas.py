"""Ideas for the closed-form head of PromptRidge, each a function of features and labels.

What they share: φ [n F] of training and validation rows, labels, and the task of each class. Each
idea returns, by the value of its knob, the logits of the validation rows; the script that tries
them (`benchmarks/prompt_ridge_ideas.py`) scores these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.prompt_ridge_search import chosen
from cpool.ridge import RandomFeatures
from cpool.ridge.solve import solve_primal

RIDGES = (3e-5, 3e-4, 1e-3, 3e-3, 1e-2)
SMALLER = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)  # for features whose spectrum falls fast
Logits = Iterator[tuple[str, Tensor]]


@dataclass
class Rows:
    """States of training and validation rows: [n L+1 poolings D] float32, each of norm 1."""

    x: Tensor
    y: Tensor
    task: Tensor
    held_x: Tensor
    held_y: Tensor
    held_task: Tensor

    @property
    def targets(self) -> Tensor:
        """One-hot labels [n C] float32."""
        return torch.nn.functional.one_hot(self.y).float()

    @property
    def task_of(self) -> Tensor:
        """The task of each class [C]."""
        owner = torch.zeros(int(self.y.max()) + 1, dtype=torch.int64)
        owner[self.y] = self.task
        return owner


def features(states: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return φ: all layers but the embeddings side by side, √weights times each, of norm 1."""
    layers = states[:, 1:]
    if weights is None:
        weights = torch.ones(layers.shape[1])
    scaled = layers * (weights / weights.sum()).sqrt()[None, :, None, None]
    return scaled.flatten(1) / states.shape[2] ** 0.5


def of_features(z: Tensor, held: Tensor, targets: Tensor, ridges: tuple[float, ...]) -> Logits:
    """Ridge regression over features z, for each λ as a share of the mean of diag G."""
    gram, cross = (z.T @ z).double(), (z.T @ targets).double()
    scale = float(gram.diagonal().mean())
    for ridge in ridges:
        yield f"{ridge:g}", held.double() @ solve_primal(gram, cross, ridge * scale)


def cosine(rows: Rows, weights: Tensor | None = None, width: int = 4000, seed: int = 0) -> Logits:
    """What PromptRidge does: M random Fourier features of φ."""
    phi, held = features(rows.x, weights), features(rows.held_x, weights)
    expand = RandomFeatures(phi.shape[1], width, kind="cosine", gamma=0.5, seed=seed)
    yield from of_features(expand(phi), expand(held), rows.targets, RIDGES)


def kernel(a: Tensor, b: Tensor, gamma: float = 0.5) -> Tensor:
    """Return exp(−γ² ‖a − b‖² / 2), float64."""
    squared = (a.double()[:, None].square().sum(-1) + b.double().square().sum(-1)) - 2 * (
        a.double() @ b.double().T
    )
    return torch.exp(-(gamma**2) * squared.clamp_min(0) / 2)


def nystroem(rows: Rows, landmarks: Tensor) -> Logits:
    """`z = k(φ, landmarks) K^(−1/2)` (Williams and Seeger, NeurIPS 2000) in place of cosines."""
    phi, held = features(rows.x), features(rows.held_x)
    anchors = phi[landmarks]
    values, vectors = torch.linalg.eigh(kernel(anchors, anchors))
    keep = values > 1e-10 * values.max()
    root = vectors[:, keep] / values[keep].sqrt()
    z = (kernel(phi, anchors) @ root).float()
    yield from of_features(z, (kernel(held, anchors) @ root).float(), rows.targets, SMALLER)


def first_task(rows: Rows) -> Tensor:
    """Indices of the rows of the first task: all that a fixed map may be made from."""
    return (rows.task == 0).nonzero()[:, 0]


def any_rows(rows: Rows, count: int = 2000) -> Tensor:
    """Indices of rows drawn from all tasks: not allowed in a stream, shows what a map could do."""
    return torch.randperm(len(rows.y), generator=torch.Generator().manual_seed(0))[:count]


def slope(rows: Rows, power: float, seed: int) -> Logits:
    """Layers weighted by exp(power · depth), depth from 0 to 1."""
    yield from cosine(rows, torch.exp(power * torch.linspace(0, 1, rows.x.shape[1] - 1)), seed=seed)


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def shares(rows: Rows, seed: int, width: int = 4000) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield z of training and validation rows for each share of the layers."""
    for share in SHARES:
        phi, held = chosen(rows.x, share), chosen(rows.held_x, share)
        expand = RandomFeatures(phi.shape[1], width, kind="cosine", gamma=0.5, seed=seed)
        yield share, expand(phi), expand(held)


def share_of_layers(rows: Rows, seed: int) -> Logits:
    """The last layers alone, by their share: which is best is seen on the validation rows."""
    for share, z, held in shares(rows, seed):
        yield f"share {share:g}", dict(of_features(z, held, rows.targets, (3e-3,)))["0.003"]


def chosen_share(rows: Rows, seed: int) -> Logits:
    """The share that is best on a fifth of each task's own rows, held out as the task comes.

    Right answers against all classes seen so far are added up over tasks, as a method could do it
    in a stream; the validation rows then see the last choice, refitted on all rows.
    """
    draw = torch.Generator().manual_seed(seed)
    kept = torch.rand(len(rows.y), generator=draw) < 0.2
    right: dict[float, int] = {}
    logits: dict[float, Tensor] = {}
    for share, z, held in shares(rows, seed):
        gram = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64)
        cross = torch.zeros(z.shape[1], rows.targets.shape[1], dtype=torch.float64)
        right[share] = 0
        for task in range(int(rows.task.max()) + 1):
            fit, own = (rows.task == task) & ~kept, (rows.task == task) & kept
            gram += (z[fit].T @ z[fit]).double()
            cross += (z[fit].T @ rows.targets[fit]).double()
            weight = solve_primal(gram, cross, 3e-3 * float(gram.diagonal().mean()))
            answers = (z[own].double() @ weight).masked_fill(~cross.any(dim=0), -torch.inf)
            right[share] += int((answers.argmax(dim=1) == rows.y[own]).sum())
        logits[share] = dict(of_features(z, held, rows.targets, (3e-3,)))["0.003"]
    best = max(right, key=lambda share: right[share])
    yield f"chose {best:g}", logits[best]


def learned_weights(rows: Rows, steps: int = 60, most: int = 1000) -> Tensor:
    """Return weights of the layers that minimise the leave-one-out error on the first task.

    Kernel ridge has that error in closed form: `eᵢ = αᵢ / (K + λI)⁻¹ᵢᵢ` with `α = (K + λI)⁻¹ y`
    (Rasmussen and Williams, 2006, section 5.4.2), which is differentiable in the weights.
    """
    chosen = first_task(rows)[:most]
    states, targets = rows.x[chosen], rows.targets[chosen].double()
    targets = targets[:, targets.sum(0) > 0]
    logs = torch.zeros(states.shape[1] - 1, requires_grad=True)
    ridge = torch.tensor(-3.0, requires_grad=True)
    optimiser = torch.optim.Adam([logs, ridge], lr=0.1)
    for _ in range(steps):
        phi = features(states, logs.exp())
        shifted = kernel(phi, phi) + ridge.double().exp() * torch.eye(len(phi)).double()
        inverse = torch.linalg.inv(shifted)
        errors = (inverse @ targets) / inverse.diagonal()[:, None]
        optimiser.zero_grad()
        errors.square().mean().backward()
        optimiser.step()
    return logs.detach().exp()


def class_gaussians(rows: Rows, size: int = 128) -> Logits:
    """Gaussians a class, Σ_c = (1 − a)·Σ_shared + a·Σ_class, + 1e-3 tr Σ/F (Friedman, 1989).

    On principal components of the first task's φ; a = 0 is linear discriminant analysis.
    """
    phi, held = features(rows.x), features(rows.held_x)
    start = phi[rows.task == 0]
    mean = start.mean(0)
    basis = torch.linalg.svd(start - mean, full_matrices=False)[2][:size].T
    z, h = ((phi - mean) @ basis).double(), ((held - mean) @ basis).double()
    classes = rows.targets.shape[1]
    means = torch.stack([z[rows.y == c].mean(0) for c in range(classes)])
    spread = [torch.cov(z[rows.y == c].T) for c in range(classes)]
    shared = torch.stack(spread).mean(0)
    for share in (0.0, 0.1, 0.3, 0.6):
        logits = []
        for c in range(classes):
            own = (1 - share) * shared + share * spread[c]
            own = own + 1e-3 * own.diagonal().mean() * torch.eye(len(own)).double()
            factor = torch.linalg.cholesky(own)
            white = torch.linalg.solve_triangular(factor, (h - means[c]).T, upper=False)
            logits.append(-white.square().sum(0) / 2 - factor.diagonal().log().sum())
        yield f"share {share}", torch.stack(logits, dim=1)


def task_then_class(rows: Rows, seed: int) -> Logits:
    """Choose the task by the summed softmax of its classes at scale s, then the class in it.

    And by a Gaussian router over the query, added: `logits·s + b·log p(task | query)`.
    """
    logits = dict(cosine(rows, seed=seed))["0.003"]
    owner, tasks = rows.task_of, int(rows.task.max()) + 1
    member = torch.nn.functional.one_hot(owner, tasks).double()
    for scale in (5.0, 20.0, 80.0):
        probable = torch.softmax(scale * logits, dim=1) @ member
        best = probable.argmax(dim=1)
        inside = logits.masked_fill(owner[None, :] != best[:, None], -torch.inf)
        yield f"scale {scale:g}", inside
    query, held = rows.x[:, -1, 0].double(), rows.held_x[:, -1, 0].double()
    means = torch.stack([query[rows.task == t].mean(0) for t in range(tasks)])
    centred = query - means[rows.task]
    shared = centred.T @ centred / len(query)
    shared += 1e-2 * shared.diagonal().mean() * torch.eye(len(shared)).double()
    white = torch.linalg.solve(shared, (held[:, None] - means).flatten(0, 1).T)
    squared = ((held[:, None] - means).flatten(0, 1) * white.T).sum(1).view(len(held), tasks)
    router = torch.log_softmax(-squared / 2, dim=1)
    for weight in (0.003, 0.01, 0.03):
        yield f"router {weight:g}", logits + weight * router[:, owner]


Idea = Callable[[Rows, int], Logits]
IDEAS: dict[str, Idea] = {
    "as it is": lambda rows, seed: cosine(rows, seed=seed),
    "cosines, as many as the first task has rows": lambda rows, seed: cosine(
        rows, width=len(first_task(rows)), seed=seed
    ),
    "nystroem, rows of the first task": lambda rows, _: nystroem(rows, first_task(rows)),
    "cosines, 2000": lambda rows, seed: cosine(rows, width=2000, seed=seed),
    "nystroem, 2000 rows of all tasks (not allowed)": lambda rows, _: nystroem(
        rows, any_rows(rows)
    ),
    "layers weighted exp(-2 depth)": lambda rows, seed: slope(rows, -2.0, seed),
    "layers weighted exp(-1 depth)": lambda rows, seed: slope(rows, -1.0, seed),
    "layers weighted exp(1 depth)": lambda rows, seed: slope(rows, 1.0, seed),
    "layers weighted exp(2 depth)": lambda rows, seed: slope(rows, 2.0, seed),
    "layers weighted by leave-one-out on the first task": lambda rows, seed: cosine(
        rows, learned_weights(rows), seed=seed
    ),
    "share of layers, from the last": share_of_layers,
    "share of layers, chosen on held-out rows as tasks come": chosen_share,
    "gaussians a class": lambda rows, _: class_gaussians(rows),
    "task, then class": task_then_class,
}
