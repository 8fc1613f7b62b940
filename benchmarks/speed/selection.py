"""Time the selection among a million keys, and the reading of pools of a thousand blocks.

    python benchmarks/speed/selection.py [--keys 1000000] [--out benchmarks/results/FILE.json]

Selection is timed a sample, against the forward pass of a random ViT-B/16 at 224 pixels (17.56
billion multiply-adds), in turns in one process on one thread. Keys are U(-1, 1): no clusters, the
worst case for an index by clusters. A query is a unit key plus `noise` times a random direction,
so its cosine with that key is about 1 / √(1 + noise²): 0.89, 0.80 and 0.71. Recall is against
the exact search.

It takes about four minutes of one core's time and 7 GB of memory. Needs the extra `faiss`.
"""

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import torch
from ratio import measure, ratios
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from cpool.policies import TopK, recall_at
from cpool.policies.search import FAISS_FROM
from cpool.pool import PromptPool
from cpool.selection import Selection

NOISE = (0.5, 0.75, 1.0)
VIT = "ViT-B/16 forward"


def pool_of(keys: int, width: int, search: str = "faiss", index: str = "ivf") -> TopK:
    """Return a policy of random keys in one block."""
    torch.manual_seed(0)
    policy = TopK(width, search=search, index=index).eval()
    policy.grow(keys)
    return policy


def draw(policy: TopK, n: int, noise: float, seed: int = 1) -> torch.Tensor:
    """Return queries near some keys."""
    generator = torch.Generator().manual_seed(seed)
    keys = policy.keys.blocks[0].detach()
    near = F.normalize(keys[torch.randint(len(keys), (n,), generator=generator)], dim=1)
    away = torch.randn(near.shape, generator=generator)
    return near + noise * F.normalize(away, dim=1)


def build(policy: TopK) -> float:
    """Return the seconds that the first search takes: it makes the index."""
    started = time.perf_counter()
    with torch.no_grad():
        policy(draw(policy, 1, 0.5))
    return time.perf_counter() - started


def vit() -> ViTModel:
    """Return a random ViT-B/16."""
    torch.manual_seed(0)
    return ViTModel(ViTConfig(), add_pooling_layer=False).eval()


def selections(pools: dict[int, TopK], batch: int) -> dict[str, Callable[[], object]]:
    """Return one selection a width, of queries that are drawn before the clock starts."""
    drawn = {width: draw(policy, batch, 0.5, seed=batch) for width, policy in pools.items()}
    return {
        f"FAISS, width {width}": lambda p=policy, q=drawn[width]: p(q)
        for width, policy in pools.items()
    }


def exact_one(policy: TopK, query: torch.Tensor) -> None:
    """Search as with `search="exact"`."""
    policy.search = "exact"
    policy(query)
    policy.search = "faiss"


@torch.no_grad()
def million(keys: int) -> dict[str, object]:
    """Time selection among many keys against the ViT, and measure its recall."""
    pools = {width: pool_of(keys, width) for width in (768, 384)}
    seconds = {width: round(build(policy), 1) for width, policy in pools.items()}
    model, result = vit(), {}
    for batch, rounds in ((32, 2), (128, 1)):
        pixels = torch.randn(batch, 3, 224, 224)
        works = {VIT: lambda x=pixels: model(x), **selections(pools, batch)}
        if batch == 32:
            queries = {width: draw(policy, 32, 0.5) for width, policy in pools.items()}
            for width, policy in pools.items():
                works[f"exact, width {width}"] = lambda p=policy, q=queries[width]: exact_one(p, q)
            times = measure(works, rounds)
        else:  # everything is warm by now, and the ViT takes its time
            times = measure_cold(works)
        result[f"batch {batch}"] = {
            "ms_per_sample": {n: round(1000 * min(t) / batch, 3) for n, t in times.items()},
            "ratio": {n: round(r, 4) for n, r in ratios(times, VIT).items()},
        }
    del model
    recall = {
        f"width {width}": {
            f"noise {noise}": round(recall_at(policy, draw(policy, 256, noise), 1), 4)
            for noise in NOISE
        }
        for width, policy in pools.items()
    }
    return {"keys": keys, "build_seconds": seconds, **result, "recall_at_1": recall}


def measure_cold(works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Run every work once."""
    seconds = {}
    for name, work in works.items():
        started = time.perf_counter()
        work()
        seconds[name] = [time.perf_counter() - started]
    return seconds


@torch.no_grad()
def crossover() -> list[dict[str, object]]:
    """Say from which size on an index pays, batch 32, width 384."""
    rows = []
    for keys, index in ((10_000, "ivf"), (30_000, "ivf"), (30_000, "hnsw"), (100_000, "ivf")):
        policy = pool_of(keys, 384, index=index)
        made, query = build(policy), draw(policy, 32, 0.5)
        works = {
            "faiss": lambda p=policy, q=query: p(q),
            "exact": lambda p=policy, q=query: exact_one(p, q),
        }
        times = measure(works, 5)
        rows.append(
            {
                "keys": keys,
                "index": index,
                "build_seconds": round(made, 2),
                "faiss_over_exact": round(ratios(times, "exact")["faiss"], 3),
                "exact_ms": round(1000 * min(times["exact"]) / 32, 3),
                "faiss_ms": round(1000 * min(times["faiss"]) / 32, 3),
                "recall_at_1": {
                    f"noise {noise}": round(recall_at(policy, draw(policy, 256, noise), 1), 4)
                    for noise in NOISE
                },
            }
        )
    return rows


def joined_step(pool: PromptPool, index: torch.Tensor) -> None:
    """Read by joining all blocks first, and go back: what `gather` did before."""
    values = torch.cat(list(pool.blocks))
    values[index].transpose(1, 2).sum().backward()


def gather_step(pool: PromptPool, index: torch.Tensor) -> None:
    """Read what is chosen, and go back."""
    pool.gather(Selection(index, None, torch.zeros(()))).sum().backward()


def joined_keys(policy: TopK, query: torch.Tensor, task: int) -> None:
    """Score all keys, joined and normalised at every step: what TopK did before."""
    allowed = policy.own(task)
    keys = F.normalize(torch.cat(list(policy.keys.blocks)), dim=1)
    similarity = F.normalize(query, dim=1) @ keys.T
    score = similarity.detach().masked_fill(~allowed, -torch.inf)
    best = score.sort(dim=1, descending=True, stable=True).indices[:, :1]
    (1 - similarity.gather(1, best)).sum(dim=1).mean().backward()


def blocks(count: int = 1000) -> dict[str, float]:
    """Time a training step's reading of a pool that grew `count` times, old blocks frozen."""
    torch.manual_seed(0)
    pool, policy = PromptPool(sites=6, length=5, width=384), TopK(384, own_task=True)
    for task in range(count):
        pool.freeze_all() if task == count - 1 else None
        pool.grow(1, task=task)
        policy.grow(1, task)
    for block in list(policy.keys.blocks)[:-1]:
        block.requires_grad_(False)
    index, query = torch.full((16, 1), count - 1), torch.randn(16, 384)
    old, some = torch.randint(count, (16, 1)), torch.randn(16, 384)
    policy.train()
    works = {
        "values, joined": lambda: joined_step(pool, index),
        "values, gather": lambda: gather_step(pool, index),
        "keys, joined": lambda: joined_keys(policy, query, count - 1),
        "keys, TopK": lambda: policy(query, task=count - 1).loss.backward(),
        "test, joined": lambda: torch.cat(list(pool.blocks))[old],
        "test, gather": lambda: pool.gather(Selection(old, None, torch.zeros(()))),
        "all keys, joined": lambda: (
            F.normalize(torch.cat(list(policy.keys.blocks)), dim=1) @ some.T
        ),
        "all keys, TopK": lambda: policy(some),
    }
    times = measure(works, 21)
    return {
        "blocks": count,
        "training, values": round(ratios(times, "values, joined")["values, gather"], 4),
        "training, keys of the task": round(ratios(times, "keys, joined")["keys, TopK"], 4),
        "test, values": round(ratios(times, "test, joined")["test, gather"], 4),
        "test, all keys": round(ratios(times, "all keys, joined")["all keys, TopK"], 4),
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    result = {
        "what": "selection a sample / forward of a random ViT-B/16 a sample, one process, one "
        "thread, in turns; recall@1 against the exact search; gather after / before, 1,000 blocks",
        "gather": blocks(),
        "crossover": crossover(),
        "faiss_from": FAISS_FROM,
        "million": million(args.keys),
        "targets": {"ratio": 0.02, "recall_at_1, noise 0.5": 0.99},
        "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "threads": 1,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
    }
    result["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
