"""Learner: order of events, bad input, prediction, resume, and the loop of one's own."""

import numpy as np
import pytest
import torch

import cpool
from cpool.backbones import TruncationWarning
from cpool.data import as_examples
from cpool.errors import ConfigError, CpoolError, DataError, StateError
from cpool.learner import Learner
from cpool.methods import L2P, NCM, DualPrompt, Joint, LinearHead, ProgressivePrompts
from cpool.seeding import seeded
from cpool.streams import class_incremental, domain_incremental, task_incremental
from tests import tiny
from tests.common.tasks import CLASSES, build, stream

VIT = tiny.backbone("vit")


def learner(method=None, **options) -> Learner:
    model = (method or NCM()).build(VIT)
    options = {"epochs": 1, "batch_size": 6, "device": "cpu", "quiet": True, **options}
    return Learner(model, **options)


def test_a_task_is_evaluated_before_the_pool_grows_again():
    """Growing before evaluating would change the selection; the order is a promise."""
    run, events = build("dualprompt", "vit"), []
    begin, evaluate = run.model.begin_task, run.evaluate

    def begin_task(*args, **kwargs):
        events.append(("grow", len(run.model.tasks)))
        return begin(*args, **kwargs)

    def evaluate_all(tasks, **kwargs):
        pool = run.model.prompter.branches["expert"].pool
        events.append(("evaluate", len(tasks), len(pool)))
        return evaluate(tasks, **kwargs)

    run.model.begin_task, run.evaluate = begin_task, evaluate_all
    run.run(stream("vit"))
    expected = []
    for t in range(3):
        expected += [("grow", t), ("evaluate", t + 1, t + 1)]
    assert events == expected


def test_a_query_is_computed_once_in_a_whole_run():
    run, passes = build("l2p", "vit"), []
    query = VIT.query

    def counted(batch):
        passes.append(len(batch["pixel_values"]))
        return query(batch)

    VIT.query = counted
    try:
        run.run(stream("vit"))
    finally:
        del VIT.query
    train = sum(len(task.train) for task in stream("vit"))
    test = sum(len(task.test) for task in stream("vit"))
    # The last evaluation is done without the cache on purpose, to be timed honestly; so the test
    # data of the last task, which is seen there only, is passed once as well.
    assert sum(passes) == train + 2 * test - len(stream("vit")[-1].test)


def test_the_last_evaluation_without_cache_equals_the_cached_one():
    run = build("l2p", "vit")
    matrix = run.run(stream("vit"))
    assert matrix.values[-1].tolist() == run.evaluate(stream("vit"))


def test_one_task_is_evaluated_as_a_list_of_one():
    run, made = learner(), stream("vit")
    run.fit_task(made[0])
    assert run.evaluate(made[0]) == run.evaluate([made[0]]) == run.evaluate(made[:1])


def test_joint_fills_the_last_row_only():
    run = learner(Joint(of="ncm"))
    matrix = run.run(stream("vit"))
    assert np.isnan(matrix.values[:-1]).all()
    assert np.isfinite(matrix.values[-1]).all()
    summary = matrix.summary()
    assert summary["forgetting"] is None
    assert summary["average_accuracy"] == pytest.approx(matrix.values[-1].mean())


def test_in_a_task_incremental_stream_only_the_told_task_competes():
    x, y = tiny.raw("vit", 36), np.repeat(np.arange(6), 6)
    made = task_incremental(x, y, x, y, tasks=3, seed=0, validation=0)
    run = learner()
    run.run(made)
    told = run.evaluate(made)
    untold = run.evaluate(made, told=False)
    assert all(a >= b for a, b in zip(told, untold, strict=True))
    for task in made:
        labels = run.predictor.predict(task.test, task.index).labels
        assert set(labels) <= set(task.classes)


def test_joint_is_told_the_classes_of_the_task_where_the_protocol_tells_the_task():
    x, y = tiny.raw("vit", 60), np.repeat(np.arange(6), 10)
    made = task_incremental(x, y, x, y, tasks=3, seed=0, validation=0)
    run = learner(Joint(of="ncm"))
    matrix = run.run(made)
    every = made.joint().train
    queries = run.queries(every).numpy()
    mean = {c: queries[every.y == c].mean(axis=0) for c in range(6)}
    mean = {c: row / np.linalg.norm(row) for c, row in mean.items()}
    for task in made:
        rows = run.queries(task.test).numpy()
        nearest = [max(task.classes, key=lambda c: float(mean[c] @ row)) for row in rows]
        accuracy = float(np.mean(np.array(nearest) == task.test.y))
        assert matrix.values[-1][task.index] == pytest.approx(accuracy)
    assert run.evaluate(made, told=False) != run.evaluate(made)
    assert run.evaluate(made[:2], told=True) == run.evaluate(made)[:2]


def test_a_method_that_must_be_told_the_task_runs_on_no_stream_that_does_not_tell_it():
    method = ProgressivePrompts(length=2)
    for refused in (method, Joint(of="progressive_prompts", options={"length": 2})):
        run = learner(refused)
        with pytest.raises(ConfigError, match=r"'progressive_prompts'.*class-incremental"):
            run.run(stream("vit"))
        assert run.matrix is None and run.done == []
    x, y = tiny.raw("vit", 24), np.repeat(np.arange(4), 6)
    matrix = learner(method).run(task_incremental(x, y, x, y, tasks=2, seed=0, validation=0))
    assert np.isfinite(matrix.values[-1]).all()


def test_a_method_that_must_be_told_the_task_answers_nothing_without_it():
    told = learner(ProgressivePrompts(length=2))
    tasks = stream("vit")
    told.fit_task(tasks[0], "first")
    told.predict(tasks[0].test.x)  # of one task it can only be that
    told.fit_task(tasks[1], "second")
    x = tasks[0].test.x
    for ask in (told.predict, told.predict_proba, told.explain):
        with pytest.raises(ConfigError, match=r"predict\(x, task=…\)"):
            ask(x)
    with pytest.raises(ConfigError, match="must be told"):
        told.evaluate(tasks[:2])
    assert set(told.predict(x, task=0)) <= set(tasks[0].classes)
    np.testing.assert_array_equal(told.predict(x, "first"), told.predict(x, 0))
    right = float((told.predict(x, "first") == tasks[0].test.y).mean())
    assert right == told.evaluate(tasks[:2], told=True)[0]
    with pytest.raises(StateError, match="first, second"):
        told.predict(x, "third")
    with pytest.raises(StateError, match="from 0 to 1"):
        told.predict(x, 2)


def test_a_known_task_lets_its_classes_alone_compete_in_a_prediction():
    run = learner()
    for task in stream("vit")[:2]:
        run.fit_task(task)
    task = stream("vit")[0]
    proba = run.predict_proba(task.test.x, task=0)
    mine = [c in task.classes for c in run.classes]
    assert proba[:, mine].sum() == pytest.approx(len(proba))
    assert run.predict_proba(task.test.x)[:, mine].sum() < len(proba)


def test_a_domain_incremental_stream_fills_the_whole_matrix():
    y = np.tile(np.arange(2), 6)
    domains = [(tiny.raw("vit", 12, s), y, tiny.raw("vit", 12, s + 9), y) for s in range(3)]
    made = domain_incremental(domains, validation=0)
    matrix = learner().run(made)
    assert np.isfinite(matrix.values).all()


def test_prediction_from_raw_inputs_and_probabilities():
    run = learner()
    x, y = tiny.raw("vit", 12), np.repeat([5, 9], 6)
    run.fit_task((x, y))
    assert set(run.predict(x)) <= {5, 9}
    probabilities = run.predict_proba(x)
    assert probabilities.shape == (12, 2)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(run.predict(x), np.asarray(run.classes)[probabilities.argmax(1)])


def test_explain_says_which_slots_each_input_got():
    run = build("l2p", "vit")
    run.fit_task(stream("vit")[0])
    said = run.explain(tiny.raw("vit", 5))
    assert said.slots["pool"].shape == (5, 2)


def test_a_disabled_slot_is_never_used_again():
    run = build("l2p", "vit")
    run.fit_task(stream("vit")[0])
    pool = run.model.prompter.branches["pool"].pool
    used = run.explain(tiny.raw("vit", 30)).slots["pool"]
    pool.enable(int(used[0, 0]), False)
    assert used[0, 0] not in run.explain(tiny.raw("vit", 30)).slots["pool"]


BAD = {
    "unknown device": (lambda: learner(device="gpu"), "a device of this machine"),
    "unknown precision": (lambda: learner(precision="fp16"), 'precision "no" or "bf16"'),
    "no data": (lambda: learner().fit_task(([], [])), "at least one training sample"),
    "one class": (
        lambda: learner(L2P(pool_size=4, top_k=2)).fit_task((tiny.raw("vit", 4), [0] * 4)),
        "at least two classes a task",
    ),
    "float labels": (
        lambda: learner().fit_task((tiny.raw("vit", 2), np.array([0.5, 1.0]))),
        "labels that are whole numbers",
    ),
    "a single string": (lambda: learner().predict("hello"), "a single string"),
    "predict first": (lambda: learner().predict(tiny.raw("vit", 2)), "learned at least one task"),
    "forward first": (
        lambda: NCM().build(VIT)(tiny.batch("vit", 2)),
        "begun at least one task",
    ),
    "a pool of 0": (lambda: L2P(pool_size=0).build(VIT), "pool of 0 slots"),
    "top-k too large": (lambda: L2P(pool_size=2, top_k=5).build(VIT), "top-k of 5"),
    "no such layer": (lambda: DualPrompt(expert_layers=(7,)).build(VIT), r"layers \[7\]"),
    "no such setting": (lambda: learner(epoch=3), "Did you mean 'epochs'"),
    "a negative rate": (lambda: learner(lr=-1.0), "lr above 0"),
    "unknown inner method": (lambda: Joint(of="l2q").build(VIT), "Did you mean 'l2p'"),
    "joint of joint": (lambda: Joint(of="joint").build(VIT), "known method"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name):
    call, says = BAD[name]
    with pytest.raises(CpoolError, match=says) as caught:
        call()
    assert caught.value.remedy


def test_a_task_seen_twice_or_out_of_order():
    run = learner()
    run.fit_task(stream("vit")[0])
    with pytest.raises(StateError, match="which was learned before"):
        run.fit_task(stream("vit")[0])
    with pytest.raises(StateError, match="expected task 1"):
        run.fit_task(stream("vit")[2])


def test_a_task_beyond_what_was_trained():
    model = LinearHead().build(VIT)
    model.begin_task([0, 1])
    with pytest.raises(StateError, match="a task from 0 to 0"):
        model.eval()(tiny.batch("vit", 2), task=3)


def test_an_old_task_cannot_be_trained_again():
    model = LinearHead().build(VIT)
    model.begin_task([0, 1])
    model.begin_task([2, 3])
    with pytest.raises(StateError, match="in training mode"):
        model(tiny.batch("vit", 2), task=0)


def test_labels_that_were_not_announced():
    model = LinearHead().build(VIT)
    model.begin_task([0, 1])
    with pytest.raises(DataError, match=r"got \[4\]"):
        model({**tiny.batch("vit", 2), "labels": torch.tensor([0, 4])}, task=0)


def test_images_that_are_not_finite():
    run = learner()
    x = tiny.raw("vit", 4).astype("float32") / 255
    x[2, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        run.fit_task((x, [0, 1, 0, 1]))


def test_a_query_of_another_width():
    model = NCM().build(VIT)
    model.begin_task([0, 1])
    with pytest.raises(DataError, match="of shape \\[B 32\\]"):
        model({**tiny.batch("vit", 2), "query": torch.zeros(2, 7)})


def test_a_learning_rate_that_explodes_says_so():
    run = learner(LinearHead(), lr=3e38, clip_norm=0.0, epochs=3, optimizer="sgd")
    with pytest.raises(DataError, match="finite loss"):
        for _ in range(3):
            run.fit_task((tiny.raw("vit", 24), np.tile([0, 1], 12)))


def test_ten_lines_with_a_loop_of_ones_own():
    backbone, made = tiny.backbone("vit"), stream("vit")
    model = cpool.L2P(slots_per_task=3, top_k=2, length=2).build(backbone)
    for t, task in enumerate(made):
        model.begin_task(task.classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for batch in cpool.batches(task.train, backbone, 8, shuffle=True):
            out = model(batch, task=t)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        model.end_task()
    with torch.no_grad():
        out = model(backbone.prepare(made[0].test.x))
    assert out.logits.shape == (len(made[0].test), CLASSES)
    assert sorted(model.classes) == list(range(CLASSES))


def test_mixed_precision_trains_and_predicts_nearly_the_same():
    plain, mixed = build("dualprompt", "vit"), build("dualprompt", "vit")
    plain.fit_task(stream("vit")[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed.fit_task(stream("vit")[0])
    before, after = plain.model.state_dict(), mixed.model.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("pool.blocks" in name for name in moved), "autocast changed the last bits"
    for name in before:
        assert torch.allclose(before[name].float(), after[name].float(), atol=0.05), name


def test_a_model_moves_and_the_shared_backbone_keeps_its_precision():
    run = build("ranpac", "vit")
    run.fit_task(stream("vit")[0])
    before, mark = VIT.dtype, VIT.fingerprint
    rows = run.model.head.rows.clone()
    run.model.to(torch.bfloat16).to("cpu").float()
    assert (VIT.dtype, VIT.fingerprint) == (before, mark)
    assert torch.equal(run.model.head.rows, rows), "float64 statistics are exact for ever"


def test_labels_of_another_task_or_type_and_queries_that_are_not_finite():
    model = LinearHead().build(VIT)
    model.begin_task([0, 1])
    model.begin_task([2, 3])
    batch = tiny.batch("vit", 2)
    with pytest.raises(DataError, match="labels of other tasks"):
        model({**batch, "labels": torch.tensor([0, 2])}, task=1)
    with pytest.raises(DataError, match="whole numbers"):
        model({**batch, "labels": torch.tensor([2.0, 3.0])}, task=1)
    with pytest.raises(DataError, match="NaN or infinity"):
        model({**batch, "query": torch.full((2, 32), np.nan)})
    model.mask = "seen"
    assert torch.isfinite(model({**batch, "labels": torch.tensor([0, 2])}, task=1).loss)


def test_a_task_in_which_nothing_trains_is_refused():
    y = np.tile(np.arange(2), 6)
    domains = [(tiny.raw("vit", 12, s), y, tiny.raw("vit", 12, s + 9), y) for s in range(2)]
    made = domain_incremental(domains, validation=0)
    with pytest.raises(StateError, match="nothing in"):
        learner(LinearHead(freeze_old=True)).run(made)


def test_room_for_prompts_is_known_before_the_first_task():
    method = DualPrompt(general_layers=(0,), expert_layers=(1,), general_length=9, expert_length=3)
    model = method.build(tiny.backbone("gpt2"))
    assert model.prompter.room == 9
    model.begin_task([0, 1])
    assert model.prompter.room == 9


def test_long_texts_give_one_warning_with_their_number_in_a_whole_run():
    with seeded(0):
        model = L2P(pool_size=4, top_k=2, length=2).build(tiny.backbone("bert"))
    run = Learner(model, epochs=2, batch_size=4, device="cpu", quiet=True)
    x = ["cat " * 100, "the dog", "cat " * 90, "a bird", "red fish", "blue fish"] * 2
    made = class_incremental(x, np.arange(12) % 4, x, np.arange(12) % 4, tasks=2, validation=0)
    with pytest.warns(TruncationWarning) as caught:
        run.run(made)
    assert [str(w.message) for w in caught] == [
        "2 texts were longer than 64 tokens; the end was cut."
    ]


def test_a_loop_of_ones_own_gets_one_warning_a_pass():
    x = ["cat " * 100, "the dog", "cat " * 90, "a bird"]
    examples = as_examples((x, [0, 1, 0, 1]))
    with pytest.warns(TruncationWarning, match="2 texts") as caught:
        assert len(list(cpool.batches(examples, tiny.backbone("bert"), 1))) == 4
    assert len(caught) == 1


def test_an_interrupted_task_says_what_to_do():
    run = build("l2p", "vit")
    step = run._optimise

    def interrupted(*args):
        raise KeyboardInterrupt

    run._optimise = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.fit_task(stream("vit")[0])
    run._optimise = step
    with pytest.raises(StateError, match="the last one was interrupted"):
        run.fit_task(stream("vit")[0])


def test_cached_and_new_queries_are_the_same_where_texts_are_cut():
    """The prompted pass leaves room for prompts; the query does not, cached or not."""
    run = build("l2p", "gpt2")
    x = ["cat dog " * 40, "the dog " * 35, "a bird", "red fish"] * 3
    examples = as_examples((x, np.arange(12) % 4))
    assert run.model.max_tokens() < 64
    with pytest.warns(TruncationWarning):
        run.fit_task(examples)
    with pytest.warns(TruncationWarning):
        a, b = run.queries(examples), run.queries(examples, cached=False)
        assert torch.allclose(a, b, atol=1e-6)
        one, two = run.predictor.predict(examples), run.predictor.predict(examples, cached=False)
    assert np.allclose(one.probabilities, two.probabilities, atol=1e-5)
