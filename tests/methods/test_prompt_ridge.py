"""PromptRidge against its equations in float64, its decisions, and its exact merge and forget."""

import math

import numpy as np
import pytest
import torch

from cpool.errors import PoolError, StateError
from cpool.exact import branch_off, forget, merge
from cpool.inject import encode
from cpool.learner import Learner
from cpool.methods.ncm import NCM
from cpool.methods.prompt_ridge import PromptRidge
from cpool.model import PromptedModel
from cpool.seeding import seeded
from cpool.streams import Stream, class_incremental, domain_incremental
from tests import tiny
from tests.common.tasks import stream


def learned(kind: str, seed: int = 0, tasks: Stream | None = None, **options) -> Learner:
    backbone = tiny.backbone(kind)  # made once, with draws of its own
    with seeded(seed, "build"):
        model = PromptRidge(**{"projection": 50, "length": 2, **options}).build(backbone)
    learner = Learner(model, seed=seed, epochs=1, batch_size=6, device="cpu", quiet=True)
    learner.run(tasks or stream(kind))
    return learner


def phi(model: PromptedModel, batch) -> np.ndarray:
    """Return φ by loops in float64: each pooled layer of norm 1, all side by side, over √."""
    prompts = model.prompter.forced(0) if model.prompter is not None else None
    with torch.no_grad():
        encoded = encode(model.backbone, batch, prompts, all_layers=True)
    rows = []
    for b in range(len(encoded.mask)):
        parts = []
        real = [t for t in range(encoded.mask.shape[1]) if encoded.mask[b, t]]
        for how in model.readout.poolings:
            for layer in model.readout.layers:
                state = encoded.hidden_states[layer][b].double().numpy()
                v = state[real[0]] if how == "cls" else np.mean([state[t] for t in real], axis=0)
                parts.append(v / math.sqrt(sum(x * x for x in v)))
        rows.append(np.concatenate(parts) / math.sqrt(len(parts)))
    return np.array(rows)


@pytest.mark.parametrize("kind", ["vit", "bert", "llama"])
@pytest.mark.parametrize("prompt", ["trained", "random", "none"])
def test_it_computes_its_equations(kind, prompt):
    learner = learned(kind, prompt=prompt, ridge=1e-3)
    model = learner.model
    head = model.head if prompt == "none" else model.head.lasting.expert(0)
    matrix = head.expand.matrix.double().numpy()
    offset = head.expand.offset.double().numpy()
    z_rows, y_rows = [], []
    for task in stream(kind):
        z_rows.append(np.cos(phi(model, model.backbone.prepare(task.train.x)) @ matrix + offset))
        y_rows += [model.classes.index(c) for c in task.train.y]
    z, y = np.concatenate(z_rows), np.eye(6)[y_rows]
    gram = z.T @ z
    ridge = 1e-3 * np.mean(np.diag(gram))
    weight = np.linalg.solve(gram + ridge * np.eye(len(gram)), z.T @ y)
    batch = model.backbone.prepare(stream(kind)[1].test.x)
    expected = np.cos(phi(model, batch) @ matrix + offset) @ weight
    with torch.no_grad():
        got = model.eval()(batch).logits.numpy()
    assert np.abs(got - expected).max() < 1e-4


def test_all_layers_are_read_and_cls_beside_the_mean_of_a_vision_model():
    vision = PromptRidge(projection=9).build(tiny.backbone("vit")).readout
    text = PromptRidge(projection=9).build(tiny.backbone("bert")).readout
    assert vision.layers == text.layers == (1, 2, 3)
    assert PromptRidge(projection=9, layers=0.5).build(tiny.backbone("bert")).readout.layers == (
        2,
        3,
    )
    assert PromptRidge(projection=9, layers=0.0).build(tiny.backbone("bert")).readout.layers == (3,)
    assert (vision.poolings, text.poolings) == (("cls", "mean"), ("mean",))


def test_only_the_first_task_trains_and_the_slot_is_frozen_then():
    backbone = tiny.backbone("vit")
    with seeded(0, "build"):
        model = PromptRidge(projection=50, length=2).build(backbone)
    learner = Learner(model, epochs=1, device="cpu", quiet=True, weight_decay=0.5)
    learner.fit_task(stream("vit")[0])
    values = model.prompter.branches["session"].pool.values().clone()
    assert len(learner.losses) == 1
    assert not list(model.parameters()), "the probe is thrown away and the slot frozen"
    learner.fit_task(stream("vit")[1])
    assert len(learner.losses) == 1
    assert torch.equal(model.prompter.branches["session"].pool.values(), values)
    assert not any("probe" in name for name in model.state_dict())


def test_a_random_prefix_stays_as_drawn_and_is_used():
    learner = learned("vit", prompt="random")
    pool = learner.model.prompter.branches["session"].pool
    assert not learner.losses
    assert pool.available(training=False).tolist() == [True]
    assert 0.3 < float(pool.values()[:, 0::2].std()) < 0.7
    assert 0.05 < float(pool.values()[:, 1::2].std()) < 0.15


def test_features_of_the_frozen_slot_are_computed_once():
    backbone = tiny.backbone("vit")
    with seeded(0, "build"):
        model = PromptRidge(projection=50, length=2).build(backbone)
    learner = Learner(model, epochs=1, device="cpu", quiet=True)
    learner.fit_task(stream("vit")[0])
    learner.evaluate(stream("vit")[:1])
    kept = learner.feed.passes
    misses = kept.misses
    learner.evaluate(stream("vit")[:1])
    assert kept.misses == misses and kept.hits > 0
    for task in stream("vit")[1:]:
        learner.fit_task(task)
    misses = kept.misses
    learner.evaluate(stream("vit")[:1])
    assert kept.misses == misses, "also after tasks that changed the router and the head"


def test_features_of_a_changed_choice_are_dropped():
    backbone = tiny.backbone("vit")
    with seeded(0, "build"):
        model = PromptRidge(projection=50, length=2, domains="task").build(backbone)
    learner = Learner(model, epochs=1, device="cpu", quiet=True)
    for task in stream("vit"):
        learner.fit_task(task)
        learner.evaluate(stream("vit")[: task.index + 1])
    kept = sum(table.count for table in learner.feed.passes._tables.values())
    assert kept <= sum(len(t.train) + len(t.test) for t in stream("vit"))
    anew = learner.predictor.predict(stream("vit")[0].test, cached=False).probabilities
    assert (
        np.abs(learner.predictor.predict(stream("vit")[0].test).probabilities - anew).max() < 1e-6
    )


def conflicting(permute: bool) -> Stream:
    """Return two domains that look alike, and of which only a mark on the first pixels tells.

    With `permute` the same image means another class in the second domain.
    """
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 256, (4, 10, 12, 3))
    domains = []
    for number in range(2):
        parts = []
        for n in (80, 40):
            y = np.arange(n) % 4
            x = (shapes[y] + rng.normal(0, 60, (n, 10, 12, 3))).clip(0, 255).astype(np.uint8)
            x[:, :3] = 255 * number
            parts += [x, (y + number * permute) % 4]
        domains.append(tuple(parts))
    return domain_incremental(domains, names=["a", "b"], validation=0, seed=0)


def domains_of(tasks: Stream, **options) -> Learner:
    # So few random features that one head cannot answer both domains.
    return learned("vit", tasks=tasks, **{"projection": 20, "prompt": "trained", **options})


def slots(learner: Learner) -> int:
    return len(learner.model.prompter.branches["session"].pool)


def test_a_conflicting_domain_gets_a_slot_of_its_own_and_is_better_for_it():
    auto, one = (domains_of(conflicting(True), domains=d) for d in ("auto", "one"))
    assert (slots(auto), slots(one)) == (2, 1)
    assert auto.model.prompter.needs_query and not one.model.prompter.needs_query
    assert [d["kept"] for d in auto.model.rules[0].decisions] == [True]
    accuracy = [m.matrix.summary()["average_accuracy"] for m in (auto, one)]
    assert accuracy[0] > accuracy[1] + 0.05


def test_a_slot_stays_where_sharing_is_as_good_on_the_new_rows():
    # Labels agree and features suffice for both: the rows of the new domain cannot tell.
    learner = domains_of(conflicting(False), projection=100, seed=1)
    decision = learner.model.rules[0].decisions[0]
    assert decision["own"] <= decision["joined"] + decision["error"]
    assert decision["kept"] and slots(learner) == 2


def test_the_same_domain_again_gets_no_slot():
    task = conflicting(False)[0]
    halves = [task.train.take(np.arange(40) + 40 * k) for k in range(2)]
    tasks = [(part.x, part.y, task.test.x, task.test.y) for part in halves]
    learner = domains_of(domain_incremental(tasks, validation=0, seed=0))
    assert slots(learner) == 1
    assert [d["kept"] for d in learner.model.rules[0].decisions] == [False]
    assert len(learner.model.head.lasting.experts) == 1
    again = domains_of(domain_incremental(tasks, validation=0, seed=0), domains="one")
    grams = again.model.head.lasting.gram, learner.model.head.lasting.expert(0).gram
    assert torch.equal(*grams), "the rows held out for the judgement are learned, too"


def bare(learner: Learner) -> tuple[int, ...]:
    return learner.model.prompter.branches["session"].policy.bare


@pytest.mark.parametrize("domains", ["one", "auto"])
def test_a_prompt_that_does_not_pay_leaves_the_frozen_models_own_features(domains, tmp_path):
    # Images of one colour each: the frozen model tells them apart, and no prompt does it better.
    rng = np.random.default_rng(0)
    y = np.arange(80) % 4
    x = (60 * y[:, None, None, None] + rng.integers(0, 9, (80, 10, 12, 3))).astype(np.uint8)
    tasks = class_incremental(x, y, x, y, tasks=2, validation=0, seed=0)
    auto = learned("vit", tasks=tasks, domains=domains, seed=5, projection=200)
    none = Learner(
        PromptRidge(
            prompt="none", seed=int(auto.model.head.lasting.expert(0).expand.seed), projection=200
        ).build(tiny.backbone("vit")),
        device="cpu",
        quiet=True,
    )
    none.run(tasks)
    assert bare(auto) == (0,)
    assert [d["prompt"] for d in auto.model.rules[0].decisions] == [False]
    # The order of the rows, and with it the rounding of sums, differs.
    assert np.abs(auto.predict_proba(x) - none.predict_proba(x)).max() < 1e-6
    assert np.abs(auto.predict_proba(x[:1]) - auto.predict_proba(x)[:1]).max() < 1e-6
    auto.save(tmp_path)
    loaded = Learner.load(tmp_path, tiny.backbone("vit"), device="cpu", quiet=True)
    assert bare(loaded) == (0,)
    assert np.array_equal(loaded.predict_proba(x), auto.predict_proba(x))


def judged_first_task(epochs: int, lr: float):
    """Learn one task with `prompt="auto"`; return the learner and the rows it was judged on."""
    model = PromptRidge(projection=20, length=4, seed=3).build(tiny.backbone("vit"))
    learner = Learner(model, seed=0, epochs=epochs, lr=lr, device="cpu", quiet=True)
    rule, seen = model.rules[0], {}
    judge = rule.judge

    def keep(model, trained, held, task):
        seen["held"] = list(held)
        judge(model, refusing(), seen["held"], task)

    rule.judge = keep
    learner.fit_task(conflicting(False)[0])
    parts = seen["held"]
    return learner, {k: torch.cat([b[k] for b in parts]) for k in ("pixel_values", "labels")}


def refusing():
    """Rows that may not be read."""
    raise AssertionError("a prompt is not judged on rows that it was trained on")
    yield


def left_out_naively(x, y):
    """Return squared errors: a fit for every row and λ, without that row; the best λ's."""
    by_ridge = []
    for power in range(-12, 3):
        # λ as a share of the mean diagonal of all rows' ZᵀZ, as it is when one row is left out.
        scale = round(10 ** (power / 2), 8) * np.mean((x**2).sum(axis=0))
        errors = []
        for i in range(len(x)):
            others = np.arange(len(x)) != i
            gram = x[others].T @ x[others] + scale * np.eye(x.shape[1])
            weight = np.linalg.solve(gram, x[others].T @ y[others])
            errors.append(((x[i] @ weight - y[i]) ** 2).sum())
        by_ridge.append(np.array(errors))
    return min(by_ridge, key=np.sum)


@pytest.mark.parametrize(("epochs", "lr", "kept"), [(60, 0.1, True), (5, 0.03, False)])
def test_a_prompt_stays_that_surely_pays_and_the_decision_is_that_of_the_equation(epochs, lr, kept):
    learner, held = judged_first_task(epochs, lr)
    model = learner.model
    head, whole = model.head.lasting.expert(0), model.prompter
    errors = {}
    model.prompter.branches["session"].policy.bare = ()  # to see what was compared
    for name, prompter in (("prompted", whole), ("frozen", None)):
        model.prompter = prompter
        z = phi(model, {"pixel_values": held["pixel_values"]})
        offset = head.expand.offset.double().numpy()
        x = np.cos(z @ head.expand.matrix.double().numpy() + offset)
        errors[name] = left_out_naively(x, np.eye(4)[held["labels"]])
    model.prompter = whole
    gain = errors["frozen"] - errors["prompted"]
    decision = model.rules[0].decisions[0]
    assert decision["gain"] == pytest.approx(gain.mean(), rel=1e-3, abs=1e-6)
    assert decision["error"] == pytest.approx(gain.std(ddof=1) / math.sqrt(16), rel=1e-3)
    assert decision["prompt"] is kept
    assert (gain.mean() > 2 * decision["error"]) == kept


def test_a_candidate_is_judged_on_rows_that_it_was_not_trained_on(monkeypatch):
    seen = {}
    rule = type(PromptRidge().build(tiny.backbone("vit")).rules[0])
    judge = rule.judge

    def spy(self, model, trained, held, task):
        trained, held = list(trained), list(held)
        seen["trained"] = sum(len(b["labels"]) for b in trained)
        seen["held"] = sum(len(b["labels"]) for b in held)
        pixels = [torch.cat([b["pixel_values"] for b in part]) for part in (trained, held)]
        seen["shared"] = any(bool((p == pixels[0]).all(dim=(1, 2, 3)).any()) for p in pixels[1])
        judge(self, model, trained, held, task)

    monkeypatch.setattr(rule, "judge", spy)
    domains_of(conflicting(True))
    assert seen == {"trained": 64, "held": 16, "shared": False}


@pytest.mark.parametrize("resumed", [False, True], ids=["whole", "resumed"])
@pytest.mark.parametrize("prompt", ["auto", "trained", "random"])
def test_the_same_domain_three_times_and_a_resume_in_between(prompt, resumed, tmp_path):
    task = conflicting(False)[0]
    parts = [task.train.take(np.arange(20) + 20 * k) for k in range(3)]
    tasks = [(part.x, part.y, task.test.x, task.test.y) for part in parts]
    made = domain_incremental(tasks, validation=0, seed=0)
    whole = domains_of(made, prompt=prompt)
    if resumed:
        first = domains_of_first(made, prompt, tmp_path)
        again = Learner.load(first, tiny.backbone("vit"), device="cpu", quiet=True)
        for later in made[1:]:
            again.fit_task(later)
        a, b = again.model.state_dict(), whole.model.state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)
    assert slots(whole) == 1
    assert all(slot < 1 for slot in bare(whole))
    decisions = whole.model.rules[0].decisions
    assert [d["kept"] for d in decisions if "kept" in d] == [False, False]


def domains_of_first(made: Stream, prompt: str, folder):
    with seeded(0, "build"):
        model = PromptRidge(projection=20, length=2, prompt=prompt).build(tiny.backbone("vit"))
    learner = Learner(model, seed=0, epochs=1, batch_size=6, device="cpu", quiet=True)
    learner.fit_task(made[0])
    learner.save(folder)
    return folder


def test_a_resume_draws_the_random_features_of_the_first_slot(tmp_path):
    kind = "vit"
    with seeded(0, "build"):
        model = PromptRidge(projection=20, length=2, domains="task").build(tiny.backbone(kind))
    learner = Learner(model, seed=0, epochs=1, batch_size=6, device="cpu", quiet=True)
    learner.fit_task(stream(kind)[0])
    learner.save(tmp_path)
    torch.randn(9)
    again = Learner.load(tmp_path, tiny.backbone(kind), device="cpu", quiet=True)
    for one in (learner, again):
        one.fit_task(stream(kind)[1])
    a, b = again.model.state_dict(), learner.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def weights(model: PromptedModel) -> list[torch.Tensor]:
    lasting = model.head.lasting
    return [head.weight for head in getattr(lasting, "experts", [lasting])]


def close(first: PromptedModel, second: PromptedModel) -> bool:
    return first.classes == second.classes and all(
        float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())
        for a, b in zip(weights(first), weights(second), strict=True)
    )


def fit(model: PromptedModel, tasks) -> PromptedModel:
    learner = Learner(model, epochs=1, batch_size=6, device="cpu", quiet=True)
    for task in tasks:
        learner.fit_task((task.train.x, task.train.y))
    return model


@pytest.mark.parametrize("projection", [50, 12], ids=["rows", "gram"])
@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_merging_equals_training_in_sequence(kind, projection):
    import copy

    with seeded(0, "build"):
        first = PromptRidge(projection=projection, length=2).build(tiny.backbone(kind))
    first = fit(first, stream(kind)[:1])
    apart = fit(branch_off(first), stream(kind)[1:])
    sequence = fit(copy.deepcopy(first), stream(kind)[1:])
    merged = merge(first, apart)
    assert close(merged, sequence)
    assert merged.tasks == sequence.tasks
    batch = tiny.batch(kind, 8)
    with torch.no_grad():
        assert torch.allclose(merged.eval()(batch).logits, sequence.eval()(batch).logits, atol=1e-4)
    assert len(first.tasks) == 1, "the models that were merged stay as they were"


@pytest.mark.parametrize("projection", [50, 12, 2], ids=["rows", "gram", "kept gram"])
@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_forgetting_equals_never_having_seen_the_task(kind, projection):
    import copy

    tasks = stream(kind)
    with seeded(0, "build"):
        first = PromptRidge(projection=projection, length=2, forgettable=True).build(
            tiny.backbone(kind)
        )
    first = fit(first, tasks[:1])
    everything = fit(copy.deepcopy(first), tasks[1:])
    without = fit(copy.deepcopy(first), tasks[2:])
    gone = forget(everything, 1)
    assert close(gone, without)
    batch = tiny.batch(kind, 8)
    with torch.no_grad():
        assert torch.allclose(gone.eval()(batch).logits, without.eval()(batch).logits, atol=1e-4)
    names = {n: tuple(t.shape) for n, t in gone.state_dict().items()}
    assert names == {n: tuple(t.shape) for n, t in without.state_dict().items()}
    assert len(everything.tasks) == 3, "the model that was asked stays as it was"


def test_a_forgotten_model_is_the_same_after_saving_and_loading(tmp_path):
    x, y = tiny.raw("vit", 48), np.repeat([0, 1, 2, 3, 4, 5, 2, 6], 6)
    parts = [(x[i : i + 12], y[i : i + 12]) for i in range(0, 48, 12)]
    with seeded(0, "build"):
        model = PromptRidge(projection=12, length=2, forgettable=True, domains="one").build(
            tiny.backbone("vit")
        )
    learner = Learner(model, epochs=1, device="cpu", quiet=True)
    for part in parts:
        learner.fit_task(part)
    gone = Learner(forget(model, 1), learner.train, device="cpu", quiet=True)
    assert gone.classes == [0, 1, 4, 5, 2, 6]
    gone.save(tmp_path)
    loaded = Learner.load(tmp_path, tiny.backbone("vit"), device="cpu", quiet=True)
    assert loaded.classes == gone.classes
    assert np.array_equal(loaded.predict_proba(x), gone.predict_proba(x))


def test_every_task_of_a_random_prefix_can_be_forgotten_in_turn():
    learner = learned("vit", prompt="random", forgettable=True, projection=12)
    model = learner.model
    for left in (2, 1, 0):
        model = forget(model, 0)
        assert len(model.tasks) == left
    assert model.classes == []


def test_what_a_decision_about_domains_depends_on_is_not_merged_or_forgotten():
    x, y = tiny.raw("vit", 24), np.tile([0, 1], 12)
    with seeded(0, "build"):
        model = PromptRidge(projection=12, length=2, forgettable=True).build(tiny.backbone("vit"))
    learner = Learner(model, epochs=1, device="cpu", quiet=True)
    learner.fit_task((x[:12], y[:12] + 5))
    branch = branch_off(model)
    learner.fit_task((x[12:], y[12:]))
    other = Learner(branch, epochs=1, device="cpu", quiet=True)
    other.fit_task((x[12:], y[12:]))
    with pytest.raises(StateError, match="share classes"):
        merge(model, branch)
    learner.fit_task((x[:12], y[:12]))
    with pytest.raises(StateError, match="share classes"):
        forget(model, 1)


def test_classes_that_come_again_stay_when_one_of_their_tasks_is_forgotten():
    x = tiny.raw("vit", 24)
    y = np.arange(24) % 4
    parts = [(x[:8], y[:8] % 2), (x[8:16], y[8:16]), (x[16:], y[16:])]
    with seeded(0, "build"):
        model = PromptRidge(projection=12, length=2, forgettable=True, domains="one").build(
            tiny.backbone("vit")
        )
    learner = Learner(model, epochs=1, device="cpu", quiet=True)
    for part in parts:
        learner.fit_task(part)
    assert forget(model, 1).classes == [0, 1, 2, 3]


def test_what_cannot_be_exact_is_refused_with_the_reason():
    learner = learned("vit")
    with pytest.raises(StateError, match="forgettable"):
        forget(learner.model, 1)
    forgettable = learned("vit", forgettable=True)
    with pytest.raises(StateError, match="slot 0 was trained"):
        forget(forgettable.model, 0)
    with pytest.raises(StateError, match="task from 0 to 2"):
        forget(forgettable.model, 7)
    with pytest.raises(PoolError, match="other prompts"):
        merge(learner.model, learned("vit", seed=1).model)
    with pytest.raises(StateError, match="depends on no order"):
        forget(learned("vit", forgettable=True, ridge="auto").model, 1)
    with pytest.raises(StateError, match="method prompt_ridge and ncm"):
        merge(learner.model, NCM().build(tiny.backbone("vit")))


def test_task_zero_of_a_random_prefix_can_be_forgotten():
    learner = learned("vit", prompt="random", forgettable=True)
    assert len(forget(learner.model, 0).tasks) == 2


def test_a_stream_of_one_class_a_task_is_learned_after_the_first():
    kind = "vit"
    x, y = tiny.raw(kind, 24), np.repeat(np.arange(4), 6)
    tasks = class_incremental(x, y, x, y, tasks=[[0, 1], [2], [3]], validation=0)
    learner = learned(kind, tasks=tasks)
    assert learner.classes == [0, 1, 2, 3]


def test_a_first_task_of_few_rows_is_saved_and_loaded(tmp_path):
    """Of four rows one is held out, whose gain has no standard error."""
    x, y = tiny.raw("vit", 4), np.arange(4) % 2
    with seeded(0, "build"):
        model = PromptRidge(projection=12, length=2).build(tiny.backbone("vit"))
    learner = Learner(model, epochs=1, device="cpu", quiet=True)
    learner.fit_task((x, y))
    (decision,) = learner.model.rules[0].decisions
    assert decision["error"] is None and decision["prompt"] is False
    learner.save(tmp_path)
    again = Learner.load(tmp_path, tiny.backbone("vit"), device="cpu", quiet=True)
    assert np.array_equal(again.predict_proba(x), learner.predict_proba(x))
