"""Rules: what the end of a task costs, and that the package exports each of them."""

import inspect
import pkgutil
from importlib import import_module

import pytest
import torch

from cpool import rules
from cpool.methods import EWC, OVOR, SLCA, Replay
from cpool.rule import Rule
from tests import tiny

SMALL = {"late_layers": (2,), "early_length": 2, "late_length": 2, "edge": 2, "tries": 2}
METHODS = {
    "replay": (Replay(size=5, tune="head"), False),
    "ewc": (EWC(tune="head"), False),
    "ovor": (OVOR(**SMALL, per_class=2, outlier_epochs=1), True),
    "slca": (SLCA(per_class=4, epochs=1), True),
}


@pytest.mark.parametrize(("method", "reads"), METHODS.values(), ids=METHODS)
def test_a_task_ends_with_a_pass_of_features_only_where_a_rule_reads_them(method, reads):
    torch.manual_seed(0)
    model, given = method.build(tiny.backbone("vit")), []
    model.begin_task([0, 1])
    batch = {**tiny.batch("vit", 6, seed=1), "labels": torch.tensor([0, 1] * 3)}
    for branch in model.prompter or ():
        branch.pool.trained_steps += 1
    for rule in model.rules:
        _watch(rule, given)
    asked, features = [], model._features
    model._features = lambda batch, task, *only: asked.append(task) or features(batch, task, *only)
    if method.name == "ewc":
        model.answer = _silent(model.answer, asked)
    model.end_task([batch])
    assert len(asked) == int(reads)
    assert any(f is not None for f, _ in given) == reads
    assert all(labels is not None for _, labels in given)


def _watch(rule, given):
    end = rule.end

    def note(model, batches, features, labels, task):
        given.append((features, labels))
        return end(model, batches, features, labels, task)

    rule.end = note


def _silent(answer, asked):
    """Return `answer`, whose own passes are not those of the end of the task."""

    def run(*args, **kwargs):
        before = len(asked)
        made = answer(*args, **kwargs)
        del asked[before:]
        return made

    return run


def test_the_package_exports_every_rule():
    found = {
        name
        for module in pkgutil.iter_modules(rules.__path__)
        for name, item in vars(import_module(f"cpool.rules.{module.name}")).items()
        if inspect.isclass(item) and issubclass(item, Rule) and item is not Rule
    }
    assert found <= set(rules.__all__)
    assert list(rules.__all__) == sorted(rules.__all__)
