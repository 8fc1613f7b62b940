"""The keys of largest cosine: exactly, or through an index of FAISS."""

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpool.errors import ConfigError, MissingDependencyError
from cpool.policies.keys import KeyBlocks
from cpool.policies.ranking import largest

__all__ = ["FAISS_FROM", "IndexKind", "KeyIndex", "exact", "has_faiss"]

IndexKind: TypeAlias = Literal["ivf", "hnsw"]

FAISS_FROM = 100_000
"""From so many keys on `search="auto"` uses FAISS (docs, *Pools and policies*, has the times)."""

CHUNK = 65_536  # keys scored at once: bounds memory, whatever the size of the pool
CANDIDATES = 64  # keys that FAISS proposes for each query, at least; the exact cosine decides
FLAT = 5_000  # below, an index by clusters would have too few keys to find clusters


@torch.no_grad()
def exact(
    keys: KeyBlocks, query: Float[Tensor, "B Q"], k: int, allowed: Bool[Tensor, " M"]
) -> Int[Tensor, "B K"]:
    """Return the `k` allowed keys of largest cosine, largest first, ties to the lowest number."""
    unit = F.normalize(query.float(), dim=1)
    slots = allowed.nonzero()[:, 0]
    if 2 * len(slots) <= len(allowed):
        few = F.normalize(keys.read(slots).float(), dim=1)
        return slots[largest(unit @ few.T, k)]
    scores, places, start = [], [], 0
    inverse = keys.inverse_norms()
    for part in keys.parts():
        for rows in torch.split(part.detach(), CHUNK):
            here = slice(start, start + len(rows))
            score = (unit @ rows.float().T).mul_(inverse[here])
            score.masked_fill_(~allowed[here], -torch.inf)
            best = largest(score, min(k, len(rows)))
            scores.append(score.gather(1, best))
            places.append(best + start)
            start += len(rows)
    # Parts come in the order of the slots, so a stable order still gives ties to the lowest.
    return torch.cat(places, 1).gather(1, largest(torch.cat(scores, 1), k))


def has_faiss() -> bool:
    """Say whether FAISS can be imported."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


class KeyIndex:
    """An index of FAISS over the allowed keys, built when it is first asked after a change.

    FAISS proposes candidates, and their exact cosines decide: what is found is ranked as in the
    exact search. Queries are searched one by one, since FAISS computes batches of 20 and more
    by another path with other last bits. An index is neither copied nor saved, only built again.

    Args:
        kind: "ivf", clusters of keys in 4-bit product codes (Jégou et al., 2011; André et al.,
            2017): small and quickly built; or "hnsw", a graph over whole keys (Malkov and
            Yashunin, 2018): more memory, a slower build.
        probe: share of the clusters that a query looks into, for "ivf".
    """

    def __init__(self, kind: IndexKind = "ivf", probe: float = 1 / 2) -> None:
        if kind not in ("ivf", "hnsw") or not 0 < probe <= 1:
            raise ConfigError(
                expected='an index "ivf" or "hnsw" and a probe in (0, 1]',
                got=f"{kind!r}, {probe}",
                remedy="Choose one; a larger probe finds more and takes longer.",
            )
        self.kind, self.probe = kind, probe
        self._built: tuple[tuple[Any, ...], Tensor, Tensor, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "KeyIndex":
        return KeyIndex(self.kind, self.probe)

    def __reduce__(self) -> tuple[Any, ...]:
        return KeyIndex, (self.kind, self.probe)

    @torch.no_grad()
    def search(
        self, keys: KeyBlocks, query: Float[Tensor, "B Q"], k: int, allowed: Bool[Tensor, " M"]
    ) -> Int[Tensor, "B K"]:
        """Return `k` allowed keys of large cosine, largest first, ties to the lowest number.

        A query for which FAISS finds fewer than `k` is searched exactly.
        """
        index, slots = self.build(keys, allowed)
        unit = F.normalize(query.float(), dim=1).cpu().numpy()
        want = min(max(CANDIDATES, 8 * k), len(slots))
        found = np.concatenate([index.search(row[None], want)[1] for row in unit])
        rows, _ = torch.as_tensor(found, device=query.device).sort(dim=1)  # lowest number first
        place = slots[rows.clamp_min(0)]
        score = keys.cosine(query, place).masked_fill_(rows < 0, -torch.inf)
        best = place.gather(1, largest(score, k))
        missing = (rows < 0).sum(dim=1) > want - k
        if bool(missing.any()):
            best[missing] = exact(keys, query[missing], k, allowed)
        return best

    def build(self, keys: KeyBlocks, allowed: Bool[Tensor, " M"]) -> tuple[Any, Int[Tensor, " m"]]:
        """Return the index and the slots of its rows, made anew if keys or slots changed."""
        stamp = keys.stamp()
        if self._built is not None:
            then, mask, slots, index = self._built
            if then == stamp and mask.device == allowed.device and torch.equal(mask, allowed):
                return index, slots
        self._built = None  # before the new one is made, so that memory holds one
        slots = allowed.nonzero()[:, 0]
        index = _new_index(self.kind, self.probe, keys, slots)
        self._built = stamp, allowed.clone(), slots, index
        return index, slots


def _new_index(kind: IndexKind, probe: float, keys: KeyBlocks, slots: Int[Tensor, " m"]) -> Any:
    faiss = _faiss()
    m, width = len(slots), keys.width
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, 32)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 128
    elif m < FLAT:
        index = faiss.IndexFlatL2(width)
    else:
        lists = 2 ** int(np.log2(m) / 2 + 0.5)  # the power of two nearest to √m
        codes = f"PQ{width // 4}x4fs" if width % 4 == 0 else "SQ8"
        index = faiss.index_factory(width, f"IVF{lists},{codes}")
        index.nprobe = max(8, round(lists * probe))
        # FAISS asks for 39 rows a cluster. Its own sample would be drawn from a copy of all.
        generator = torch.Generator().manual_seed(0)
        sample = torch.randperm(m, generator=generator)[: 40 * lists].to(slots.device)
        index.train(_unit(keys, slots[sample]))
    for part in torch.split(slots, CHUNK):
        index.add(_unit(keys, part))
    return index


def _unit(keys: KeyBlocks, slots: Int[Tensor, " m"]) -> Any:
    # On unit vectors the order of Euclidean distances is that of cosines.
    return F.normalize(keys.read(slots).detach().float(), dim=1).cpu().numpy()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError(
            expected="the package faiss-cpu for search='faiss'",
            got="no such package",
            remedy="Run: pip install 'continual-prompt-pool[faiss]', or choose search='exact'.",
        ) from error
    return faiss
