"""RandomFeatures: a fixed random map of features, drawn from a seed and never stored."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpool.errors import ConfigError

__all__ = ["Kind", "RandomFeatures"]

Kind = Literal["relu", "cosine", "orthogonal", "none"]


class RandomFeatures(nn.Module):
    """`z = relu(f W)` (RanPAC), or `z = cos(f W + b)` (random Fourier features), or `z = f`.

    With "relu" W ~ N(0, 1). With "cosine" W ~ N(0, γ²) and b ~ U(0, 2π): then `z zᵀ · 2/M`
    approaches the kernel exp(−γ²‖f − f′‖²/2) (Rahimi and Recht, NeurIPS 2007). "orthogonal" is
    the same with orthogonal directions in blocks of F, which approaches it faster (Yu et al.,
    NeurIPS 2016).

    Args:
        feature_size: F.
        width: M.
        kind: which map.
        gamma: γ, the scale of W: the larger, the narrower the kernel.
        seed: of W and b; drawn from torch's generator when None. It is stored, they are not.
    """

    def __init__(
        self,
        feature_size: int,
        width: int | None,
        *,
        kind: Kind = "relu",
        gamma: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if width is not None and width < 1:
            raise ConfigError(
                expected="a projection to at least 1 feature, or none",
                got=repr(width),
                remedy="Change projection.",
            )
        self.feature_size, self.gamma = feature_size, gamma
        self.kind: Kind = "none" if width is None else kind
        self.width = width or feature_size
        drawn = int(torch.randint(2**31 - 1, ())) if seed is None else seed
        self.register_buffer("seed", torch.tensor(drawn))
        matrix, offset = self._draw()
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def _draw(self) -> tuple[Tensor, Tensor]:
        if self.kind == "none":
            return torch.zeros(0, 0), torch.zeros(0)
        generator = torch.Generator().manual_seed(int(self.get_buffer("seed")))
        f, m = self.feature_size, self.width
        matrix = torch.randn(f, m, generator=generator)
        if self.kind == "relu":
            return matrix, torch.zeros(0)
        if self.kind == "orthogonal":
            norms = matrix.norm(dim=0)
            starts = range(0, m, f)
            blocks = [torch.linalg.qr(matrix[:, i : i + f])[0] for i in starts]
            matrix = torch.cat(blocks, dim=1) * norms
        offset = 2 * math.pi * torch.rand(m, generator=generator)
        return self.gamma * matrix, offset

    def forward(self, features: Float[Tensor, "n F"]) -> Float[Tensor, "n M"]:
        """Return the random features, float32."""
        features = features.float()
        if self.kind == "none":
            return features
        with torch.autocast(features.device.type, enabled=False):
            projected = features @ self.get_buffer("matrix")
        if self.kind == "relu":
            return torch.relu(projected)
        return torch.cos(projected + self.get_buffer("offset"))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        device = self.get_buffer("matrix").device
        self.matrix, self.offset = (tensor.to(device) for tensor in self._draw())
