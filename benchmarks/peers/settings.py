"""What every peer is given: streams, models, hyper-parameters and seeds; and what is aimed at."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Peer(NamedTuple):
    """A library that runs in processes of its own.

    Attributes:
        name: as the tables call it.
        script: the module of `benchmarks.peers` that runs one measurement.
        environment: name in `ENVIRONMENTS`; None for the interpreter that runs the driver.
        packages: distributions whose versions are recorded.
        changes: entries of the job that are this peer's own.
    """

    name: str
    script: str
    environment: str | None
    packages: tuple[str, ...]
    changes: Mapping[str, Any] = MappingProxyType({})


class Comparison(NamedTuple):
    """One stream that several peers learn.

    Attributes:
        name: key in the results.
        title: heading on the page.
        kind: "image" or "text".
        base: name of the peer that the others are divided by.
        peers: in the order in which they take turns.
        job: what each process is told; plain JSON values.
        accuracy: whether its accuracies mean something (not with random weights).
        rounds: how many, a seed each; more where accuracies scatter.
    """

    name: str
    title: str
    kind: str
    base: str
    peers: tuple[Peer, ...]
    job: dict[str, Any]
    accuracy: bool = True
    rounds: int = 3


OURS, AVALANCHE, CAPYMOA, PEFT = "cpool", "Avalanche", "CapyMOA", "PEFT"
ANCHORED, BLOCKS = "cpool, anchored", "cpool, slots a task, anchored"

# Avalanche's ViT is written for this release of timm, whose names of weights it takes.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "avalanche": ("avalanche-lib==0.6.0", "timm==0.6.13"),
    "capymoa": ("capymoa[torch]==0.15.1", "transformers>=5,<6"),
}

_CORE = ("torch", "numpy")
_OWN = ("continual-prompt-pool", "transformers", *_CORE)
_IMAGE_PEERS = (
    Peer(OURS, "image_cpool", None, _OWN),
    Peer(ANCHORED, "image_cpool", None, _OWN, {"anchor": 8.0}),
    # What CapyMOA's does: slots for each task, which chooses among its own in training, and eight
    # classes of logit 0 beside the two of the task.
    Peer(BLOCKS, "image_cpool", None, _OWN, {"slots_per_task": 5, "anchor": 8.0}),
    Peer(AVALANCHE, "image_avalanche", "avalanche", ("avalanche-lib", "timm", *_CORE)),
    Peer(CAPYMOA, "image_capymoa", "capymoa", ("capymoa", *_CORE)),
)
_TEXT_PEERS = (
    Peer(OURS, "text_cpool", None, _OWN),
    Peer(PEFT, "text_peft", None, ("peft", "transformers", *_CORE)),
)
_L2P = {
    "tasks": 5,
    "batch_size": 32,
    "lr": 0.03,
    "pool_size": 10,
    "top_k": 5,
    "length": 5,
    "pull": 0.5,
    "position": "cls",  # Avalanche and CapyMOA know no other
}

COMPARISONS = (
    Comparison(
        "digits",
        "L2P on digits",
        "image",
        AVALANCHE,
        _IMAGE_PEERS,
        {**_L2P, "backbone": "embedded", "train_per_class": 40, "test_per_class": 24, "epochs": 3},
        rounds=6,
    ),
    Comparison(
        "vit-tiny",
        "L2P on a ViT of usual size",
        "image",
        AVALANCHE,
        (_IMAGE_PEERS[0], _IMAGE_PEERS[3]),
        {
            **_L2P,
            # vit_tiny_patch16_224; nothing here is learned from its weights but times and sizes.
            "backbone": {
                "hidden_size": 192,
                "num_hidden_layers": 12,
                "num_attention_heads": 3,
                "intermediate_size": 768,
                "image_size": 224,
                "patch_size": 16,
                "layer_norm_eps": 1e-6,
            },
            "train_per_class": 3,
            "test_per_class": 2,
            "epochs": 2,
            "batch_size": 6,
        },
        accuracy=False,
    ),
    Comparison(
        "snips",
        "Prompt tuning on a language model",
        "text",
        PEFT,
        _TEXT_PEERS,
        {
            "tasks": 3,
            "train_per_class": 3,
            "test_per_class": 3,
            "epochs": 2,
            "batch_size": 4,
            "lr": 0.01,
            "clip_norm": 1.0,
            "text": "Say what the text is about with one of the labels.",
            "template": "{{ text }}\nIntent:",
        },
    ),
)


class Target(NamedTuple):
    """What is aimed at: a measurement of ours over that of the base, at most or at least `bound`.

    Attributes:
        comparison: name of the comparison.
        what: a key of `page.DIVIDED`, "model" or "accuracy".
        words: as the page says it.
        bound: the number.
        above: whether the measurement shall be at least the bound, not at most.
        of: the row of ours that is compared.
        over: the peer that it is compared with; the base of the comparison when None.
    """

    comparison: str
    what: str
    words: str
    bound: float
    above: bool
    of: str = OURS
    over: str | None = None


PATCHES = {"digits": 16, "vit-tiny": 196}  # of an image
_WHERE = {"digits": "on digits", "vit-tiny": "on the ViT of usual size"}
TARGETS = (
    Target("digits", "accuracy", "points of accuracy ahead of Avalanche on digits: ≥ 0", 0.0, True),
    Target(
        "digits",
        "accuracy",
        f"points of *{BLOCKS}* ahead of CapyMOA: ≥ 0",
        0.0,
        True,
        BLOCKS,
        CAPYMOA,
    ),
    *(
        Target(name, what, f"{words} {where}", bound, above)
        for name, where in _WHERE.items()
        for what, words, bound, above in (
            ("whole", "whole run ≥ 1.5 × as fast as Avalanche's", 1.5, True),
            ("evaluate", "evaluation ≥ 1.8 × as fast as Avalanche's", 1.8, True),
            ("model", "model memory ≤ 0.5 of Avalanche's", 0.5, False),
        )
    ),
)
