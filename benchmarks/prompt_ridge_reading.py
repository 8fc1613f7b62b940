"""What the rows of PromptRidge may mean, and which of them were not run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.prompt_ridge_rows import (
    JOINT,
    NONE,
    ONE_LAYER,
    PROMPT,
    RANDOM,
    Experiment,
    paragraph,
    points,
    said,
)
from cpool._io import read_json
from cpool.report.results import Stat

__all__ = ["differences", "not_run", "why"]

# The experiments that ask what the parts of PromptRidge add; the others ask something else.
ASKED = (
    "prompt-ridge-clinc150",
    "prompt-ridge-banking77",
    "prompt-ridge-cifar100",
    "prompt-ridge-cifar100-base50",
    "conflicting-intents",
    "rotated-inverted-digits",
)
CONTROLS = {
    RANDOM: "random prefix",
    ONE_LAYER: "one layer without a prompt",
    PROMPT: "joint prefix",
    JOINT: "joint fine-tuning",
}
FEW, WHOLE, CLINC = "banking77", "prompt-ridge-banking77", "prompt-ridge-clinc150"
FASHION, OMNIGLOT, CIFAR = "fashion-mnist", "omniglot50", "prompt-ridge-cifar100"

READING = (
    "*What we read in it, which no row measures by itself:*",
    "",
    "- On BANKING77 with few queries it is not the prompt that leaves PromptRidge behind RanPAC, "
    "since the default, a trained and a random prefix are as good as none, nor a λ that was set "
    "before, since the rows choose it. What is left are the layers, which cost a point on test "
    "rows and nothing on validation rows, and the heads, whose random features differ: cosines of "
    "features of norm 1, and rectified ones. With all queries both turn round.",
    "- On Fashion-MNIST the random prefix shows what it may cost to put something in front of a "
    "small frozen model; training it on the few classes of a first task wins some of that back. On "
    "Omniglot neither prompt nor layers are parted from nothing. On CLINC150, whole or with few "
    "queries, the layers give nearly all that is gained; with few the prompt adds a fifth of a "
    "point. On CIFAR-100 training gives more than a random prefix costs, but from ten classes too "
    'little to part the prompt from no prompt, and `prompt="auto"` refuses it with two of three '
    "seeds. From a first task of fifty the two are parted, and it keeps the prompt with each seed.",
    "- With 2 to 16 examples a class the first task trains no prefix that pays: of [24 "
    "differences](studies.md#when-does-a-prompt-pay) to no prompt, on six data sets, none is "
    'clearly above 0 and three are clearly below. That is what `prompt="auto"` is for.',
    "- More classes for the prompt do not make up for it: the joint prefix sees all tasks at once, "
    "and is behind the ridge without a prompt wherever it was run. But its own head is linear and "
    "trained by gradients, so this compares two heads as well.",
)


def not_run(found: Mapping[str, Experiment]) -> list[str]:
    """Return the table of control rows that an experiment lacks; nothing where all are there."""
    lines = []
    for name in (name for name in ASKED if name in found):
        experiment = found[name]
        trained = [] if experiment.trained() else ["trained prefix"]
        lacking = [words for label, words in CONTROLS.items() if not experiment.of(label)]
        if trained or lacking:
            lines.append(f"| {name} | {', '.join([*trained, *lacking])} |")
    if not lines:
        return []
    table = ["| experiment | rows |", "| --- | --- |", *lines]
    return ["These control rows were not run, for want of time:", "", *table, ""]


def why(found: Mapping[str, Experiment], folder: Path) -> list[str]:
    """Return what speaks for the rows without a prompt, and a reading that the tests hold to it.

    Args:
        found: the experiments; nothing is returned where one of those that are read is missing.
        folder: of the logs of the search.
    """
    if not {FEW, WHOLE, CLINC, FASHION, OMNIGLOT, CIFAR} <= set(found):
        return []
    measured = [
        _queries(found[FEW], found[WHOLE]),
        _validation(read_json(folder / f"{FEW}-ideas.json")["trials"]),
        _images(found[FASHION]),
        _letters(found[OMNIGLOT]),
        _whole(found[CLINC], found[CIFAR]),
    ]
    lines = ["## Why rows without a prompt lead", "", "Measured, differences seed by seed:", ""]
    return [*lines, *map(paragraph, measured), "", *map(paragraph, READING), ""]


def _queries(few: Experiment, whole: Experiment) -> str:
    return (
        f"- **{FEW}**, 20 queries an intent: `ranpac` leads with {said(few.stat('ranpac'))}. The "
        f"ridge without a prompt is {points(few, ONE_LAYER, 'ranpac')} from it on the last layer "
        f"and {points(few, NONE, 'ranpac')} on all layers, {_penalty(few)}. With all queries "
        f"({WHOLE}), {_penalty(whole)}, the last layer is {points(whole, ONE_LAYER, 'ranpac')} "
        f"from RanPAC, all layers are {points(whole, NONE, 'ranpac')}."
    )


def _penalty(experiment: Experiment) -> str:
    ridges = {experiment.choice(label, "ridge") for label in (NONE, ONE_LAYER)}
    if ridges == {"left_out"}:
        return "λ chosen by rows left out"
    return f"with λ = {' and '.join(sorted(map(str, ridges)))}"


def _validation(trials: Sequence[Mapping[str, Any]]) -> str:
    layers, ridges = differences(trials)
    return (
        f"- On validation data of {FEW} (the log of ideas, below) all layers are "
        f"{said(layers, signed=True)} from the last one with the same λ, 0.003. On all layers "
        f"λ = 0.01 is {said(ridges, signed=True)} from λ = 0.0003."
    )


def differences(trials: Sequence[Mapping[str, Any]]) -> tuple[Stat | None, Stat | None]:
    """Return all layers − the last one, and λ = 0.01 − λ = 0.0003, in points seed by seed."""

    def between(idea: str, one: str, other: str) -> Stat | None:
        found = [trial["found"] for trial in trials if trial["idea"] == idea]
        return Stat.of(100 * (f[one]["accuracy"] - f[other]["accuracy"]) for f in found)

    layers = between("share of layers, from the last", "share 1", "share 0")
    return layers, between("as it is", "0.01", "0.0003")


def _images(images: Experiment) -> str:
    trained = images.trained()
    return (
        f"- **{FASHION}**, two of ten classes in the first task: the layers give "
        f"{points(images, NONE, ONE_LAYER)}. A trained prefix is {points(images, trained, NONE)} "
        f"from none and a random one {points(images, RANDOM, NONE)}, so training gives "
        f"{points(images, trained, RANDOM)}."
    )


def _letters(letters: Experiment) -> str:
    return (
        f"- **{OMNIGLOT}**, 5 classes of 9 drawings in the first task: the default is "
        f"{points(letters, letters.default(), NONE)} from no prompt, a trained prefix "
        f"{points(letters, letters.trained(), NONE)}, a random one "
        f"{points(letters, RANDOM, NONE)}. The layers give {points(letters, NONE, ONE_LAYER)}."
    )


def _whole(clinc: Experiment, cifar: Experiment) -> str:
    words, prompt = (e.trained() or e.default() for e in (clinc, cifar))
    return (
        f"- **{CLINC}**, 10 of 150 classes in the first task: the layers give "
        f"{points(clinc, NONE, ONE_LAYER)}, the prompt {points(clinc, words, NONE)}. "
        f"**{CIFAR}**, whose class means fit worst (`ncm` {said(cifar.stat('ncm'))}): the prompt "
        f"is {points(cifar, prompt, RANDOM)} from a random one and {points(cifar, prompt, NONE)} "
        "from none."
    )
