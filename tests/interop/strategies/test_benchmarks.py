"""Streams of cpool in Avalanche and back, its metrics beside cpool's, and the one strategy."""

import importlib
import io
import sys

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark, ni_benchmark
from avalanche.benchmarks.scenarios.online import OnlineCLScenario, split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset, concat_datasets
from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics
from avalanche.logging import CSVLogger, InteractiveLogger, TensorboardLogger, TextLogger
from avalanche.training.plugins import EvaluationPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import TensorDataset

from cpool.errors import ConfigError, DataError, MissingDependencyError, StateError
from cpool.interop.avalanche import (
    AvalancheModel,
    MatrixMetrics,
    PromptPoolPlugin,
    PromptStrategy,
    as_benchmark,
    as_stream,
)
from cpool.interop.avalanche.inputs import decoded, encoded, raw_inputs
from cpool.learner import Learner
from cpool.metrics import variants
from cpool.streams import domain_incremental
from tests import tiny
from tests.common.tasks import build, stream
from tests.interop.strategies.runs import answers, benchmark, naive, own, prompted, strategy_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("kind", ["vit", "llama"])
@pytest.mark.parametrize("scenario", ["class", "task"])
def test_a_stream_comes_back_as_it_went(kind, scenario):
    one = stream(kind).replaced(stream(kind)[:], scenario=scenario)
    made = as_benchmark(one)
    assert [e.classes_in_this_experience for e in made.train_stream] == [{*t.classes} for t in one]
    labels = [e.dataset.targets_task_labels.uniques for e in made.train_stream]
    assert labels == ([{0}, {1}, {2}] if scenario == "task" else [{0}] * 3)
    again = as_stream(made, name="tiny")
    assert (again.scenario, again.modality) == (scenario, one.modality)
    assert {*again.class_order} == {*one.class_order}
    for old, new in zip(one, again, strict=True):
        assert {*old.classes} == {*new.classes}
        for split in ("train", "test"):
            before, after = getattr(old, split), getattr(new, split)
            assert np.array_equal(np.asarray(before.x), np.asarray(after.x))
            assert np.array_equal(before.y, after.y)


def test_domains_and_validation_data_are_kept():
    y = np.repeat(np.arange(3), 4)
    sets = [(tiny.raw("vit", 12, s), y, tiny.raw("vit", 12, s + 9), y) for s in range(2)]
    one = domain_incremental(sets, validation=0.25, seed=0)
    made = as_benchmark(one)
    assert [len(e.dataset) for e in made.streams["valid"]] == [len(t.validation) for t in one]
    assert as_stream(made).scenario == "domain"


def images(n: int, seed: int) -> TensorDataset:
    x = torch.from_numpy(tiny.raw("vit", n, seed)).permute(0, 3, 1, 2).float() / 255
    made = TensorDataset(x, torch.arange(n) % 6)
    made.targets = (torch.arange(n) % 6).tolist()
    return made


@pytest.mark.parametrize("labels", [False, True])
def test_benchmarks_of_its_own_train_a_pool(labels):
    made = nc_benchmark(images(36, 0), images(24, 1), 3, task_labels=labels, seed=0)
    one = as_stream(made)
    assert len(one) == 3 and one.scenario == ("task" if labels else "class")
    assert one[0].train.x.dtype == np.uint8  # what ToTensor scaled is whole again
    strategy = naive("ranpac", "vit")
    for experience in made.train_stream:
        strategy.train(experience)
    results = strategy.eval(made.test_stream)
    matrix = strategy.evaluator.metrics[0].matrix
    average = results["cpool/average_accuracy/test_stream"]
    assert average == pytest.approx(matrix.values[2].mean())


def test_a_slice_of_a_stream_is_measured_as_the_stream_is():
    made = nc_benchmark(images(36, 0), images(24, 1), 3, task_labels=False, seed=0)
    found = []
    for training in (made.train_stream[:2], [made.train_stream[0], made.train_stream[1]]):
        for tested in (made.test_stream, made.test_stream[:2]):
            strategy = naive("ncm", "vit")
            for experience in training:
                strategy.train(experience)
                results = own_values(strategy.eval(tested))
            values = strategy.evaluator.metrics[0].matrix.values
            assert results["average_accuracy"] == pytest.approx(values[1, :2].mean())
            assert {"forgetting", "learning_accuracy"} <= {*results}
            found.append(results)
    assert all(one == found[0] for one in found)


def test_new_instances_of_old_classes_are_domains():
    made = ni_benchmark(images(36, 0), images(24, 1), 2, seed=0)
    strategy = naive("ncm", "vit")
    for experience in made.train_stream:
        strategy.train(experience)
    assert len(strategy.model.prompted.tasks) == 2
    # One experience, of all test data: no matrix of tasks, but the accuracy as it is now.
    found = own_values(strategy.eval(made.test_stream))
    learner, one = own("ncm", "vit"), as_stream(made)
    assert one.scenario == "domain" and [len(task.test) for task in one] == [24, 24]
    for task in one:
        learner.fit_task(task)
    again, turned = naive("ncm", "vit"), as_benchmark(one)
    for experience in turned.train_stream:
        again.train(experience)
    again.eval(turned.test_stream)
    got = again.evaluator.metrics[0].matrix.values[1]
    assert learner.evaluate(one) == pytest.approx([*got]) and got[0] == got[1]
    (test,) = made.test_stream
    right = answers(strategy, test).argmax(axis=1) == np.array(test.dataset.targets)
    assert found == {
        "average_accuracy": right.mean(),
        "average_accuracy_weighted": right.mean(),
    }


def own_values(results):
    """Return cpool's metrics among the results of an evaluation."""
    return {k.split("/")[1]: v for k, v in results.items() if k.startswith("cpool/")}


def test_repeated_classes_are_measured_as_they_are_now():
    parts = [e.dataset for e in benchmark("vit").train_stream]
    tests = [e.dataset for e in benchmark("vit").test_stream]
    made = benchmark_from_datasets(train=[parts[k] for k in (0, 1, 0, 2, 1)], test=tests)
    strategy, learner = naive("ncm", "vit"), own("ncm", "vit")
    for number, experience in enumerate(made.train_stream):
        strategy.train(experience)
        task = (0, 1, 0, 2, 1)[number]
        learner.fit_task((stream("vit")[task].train.x, stream("vit")[task].train.y))
        found = own_values(strategy.eval(made.test_stream))
        now = learner.evaluate(stream("vit"))
        assert found["average_accuracy"] == pytest.approx(np.mean(now))
        assert found["average_accuracy_weighted"] == pytest.approx(np.mean(now))  # of one size
        assert len(found) == 2
    with pytest.raises(StateError, match="belong to no task"):
        _ = strategy.evaluator.metrics[0].matrix


def test_the_file_of_the_csv_logger_holds_accuracy_and_forgetting(tmp_path):
    metrics = MatrixMetrics(experiences=True)
    logger = CSVLogger(log_folder=str(tmp_path))
    strategy = naive("ncm", "vit", evaluator=EvaluationPlugin(metrics, loggers=[logger]))
    made = benchmark("vit")
    for experience in made.train_stream:
        strategy.train(experience)
        strategy.eval(made.test_stream)
    logger.close()
    rows = np.loadtxt(tmp_path / "eval_results.csv", delimiter=",", skiprows=1)
    values = metrics.matrix.values
    assert len(rows) == 9 and values[2].max() > 0
    for tested, trained, accuracy, _, forgetting in rows:
        tested, trained = int(tested), int(trained)
        assert accuracy == pytest.approx(values[trained, tested], abs=1e-4)
        past = values[tested:trained, tested]  # rows before this one, from its own on
        wanted = past.max() - values[trained, tested] if len(past) else 0.0
        assert forgetting == pytest.approx(wanted, abs=1e-4)
    assert (rows[:, 4] != 0).any()


def test_a_criterion_may_weigh_every_class_of_the_benchmark():
    made = benchmark("vit")
    heavy, plain = torch.ones(6), naive("linear_head", "vit")
    weighted = naive("linear_head", "vit")
    weighted._criterion = torch.nn.CrossEntropyLoss(weight=heavy)
    for experience in made.train_stream:
        for strategy in (plain, weighted):
            strategy.train(experience, shuffle=False)
            strategy.eval(made.test_stream[:1])
    pairs = zip(*(s.model.prompted.state_dict().values() for s in (plain, weighted)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    few = naive("linear_head", "vit")
    few._criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(1))
    with pytest.raises(ConfigError, match="a weight for every class"):
        few.train(made.train_stream[0])


def test_one_test_experience_is_shared_out_by_classes():
    made = benchmark("vit")
    joined = concat_datasets([e.dataset for e in made.test_stream])
    whole = benchmark_from_datasets(train=[e.dataset for e in made.train_stream], test=[joined])
    for task, wanted in zip(as_stream(whole), as_stream(made), strict=True):
        assert np.array_equal(task.test.x, wanted.test.x)
        assert np.array_equal(task.test.y, wanted.test.y)


def test_an_online_stream_begins_and_ends_tasks_at_its_boundaries():
    made = benchmark("vit")
    online = split_online_stream(made.train_stream, experience_size=4, access_task_boundaries=True)
    strategy = naive("l2p_growing", "vit", train_epochs=1, train_mb_size=4)
    for experience in online:
        strategy.train(experience)
    model = strategy.model.prompted
    assert len(model.tasks) == 3
    assert [len(b) for b in next(iter(model.prompter)).pool.blocks] == [2, 2, 2]
    for _ in range(2):  # a second evaluation writes the same row again
        strategy.eval(made.test_stream)
    assert strategy.evaluator.metrics[0].matrix.values.shape == (3, 3)
    with pytest.warns(UserWarning, match="Deprecated"):
        older = OnlineCLScenario(
            made.streams.values(), experience_size=4, access_task_boundaries=True
        )
    again = naive("l2p_growing", "vit", train_epochs=1, train_mb_size=4)
    for experience in older.train_online_stream:
        again.train(experience)
    assert again.model.prompted.tasks == model.tasks
    blurred = split_online_stream(made.train_stream, experience_size=4)
    with pytest.raises(ConfigError, match="where a task begins"):
        naive("l2p_growing", "vit").train(next(iter(blurred)))
    held = naive("prompt_ridge", "vit")  # it knows at the start of a task only whether it judges
    online = split_online_stream(made.train_stream, experience_size=4, access_task_boundaries=True)
    with pytest.raises(ConfigError, match="keeps a part to judge on"):
        held.train(next(iter(online)))
    assert not held.model.prompted.tasks


def test_values_of_avalanche_are_those_of_the_same_matrix(tmp_path):
    text, csv = io.StringIO(), CSVLogger(log_folder=str(tmp_path / "csv"))
    board = TensorboardLogger(tb_log_dir=str(tmp_path / "board"))
    metrics = MatrixMetrics()
    evaluator = EvaluationPlugin(
        metrics,
        accuracy_metrics(experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        bwt_metrics(stream=True),
        loggers=[TextLogger(text), InteractiveLogger(), csv, board],
    )
    model = AvalancheModel(prompted("linear_head", "vit"))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=6,
        train_epochs=3,
        eval_mb_size=8,
        plugins=[PromptPoolPlugin()],
        evaluator=evaluator,
    )
    made = benchmark("vit")
    for experience in made.train_stream:
        strategy.train(experience)
        found = strategy.eval(made.test_stream)
    csv.close()
    matrix = metrics.matrix
    forgot = variants.avalanche_stream_forgetting(matrix.values)
    assert found["StreamForgetting/eval_phase/test_stream"] == pytest.approx(forgot)
    bwt = variants.avalanche_stream_bwt(matrix.values)
    assert found["StreamBWT/eval_phase/test_stream"] == pytest.approx(bwt)
    top = variants.avalanche_top1_acc_stream(matrix.values, matrix.sizes)
    assert found["Top1_Acc_Stream/eval_phase/test_stream"] == pytest.approx(top)
    summary = matrix.summary()
    assert found["cpool/forgetting/test_stream"] == summary["forgetting"]
    assert "cpool/forgetting/test_stream" in text.getvalue()
    assert list((tmp_path / "board").glob("*tfevents*"))


def test_metrics_are_of_the_order_of_learning():
    made, turned, straight = benchmark("vit"), naive("ncm", "vit"), naive("ncm", "vit")
    learner, order = own("ncm", "vit"), [2, 0, 1]
    for number in order:
        turned.train(made.train_stream[number])
        turned.eval([made.test_stream[n] for n in order])
        straight.train(made.train_stream[number])
        straight.eval(made.test_stream)
        learner.fit_task(stream("vit")[number].train)
    one, other = (s.evaluator.metrics[0].matrix.values for s in (turned, straight))
    assert np.array_equal(one, other)
    wanted = learner.evaluate([stream("vit")[n] for n in order])
    np.testing.assert_allclose(one[2], wanted, atol=1e-9)
    assert len({*wanted}) > 1 and (np.triu(one, 1) == 0).all()


@pytest.mark.parametrize("row", ["l2p", "hide_prompt", "prompt_ridge", "der", "few_shot"])
def test_the_strategy_is_the_learner(row):
    kind = "llama" if row == "few_shot" else "vit"
    metrics = MatrixMetrics()
    evaluator = EvaluationPlugin(metrics, loggers=TextLogger(io.StringIO()))
    strategy = PromptStrategy(learner=build(row, kind), evaluator=evaluator)
    made, learner = benchmark(kind), build(row, kind)
    for experience, task in zip(made.train_stream, stream(kind), strict=True):
        strategy.train(experience)
        strategy.eval(made.test_stream)
        learner.fit_task(task)
        row_of = metrics.matrix.values[task.index]
        wanted = learner.evaluate(stream(kind)[: task.index + 1])
        np.testing.assert_allclose(row_of[: task.index + 1], wanted, atol=1e-9)
    assert strategy.learner.done == ["experience 0", "experience 1", "experience 2"]


def test_plugins_of_steps_and_used_learners_are_refused_by_the_strategy():
    with pytest.raises(ConfigError, match="PromptPoolPlugin on Naive"):
        PromptStrategy(learner=build("l2p", "vit"), plugins=[LwFPlugin()])
    used = build("ncm", "vit")
    used.fit_task(stream("vit")[0])
    with pytest.raises(ConfigError, match="a new learner"):
        PromptStrategy(learner=used)
    evaluator = EvaluationPlugin(MatrixMetrics(), loggers=TextLogger(io.StringIO()))
    strategy = PromptStrategy(
        learner=build("ncm", "vit"), plugins=[ReplayPlugin(9)], evaluator=evaluator
    )
    made = benchmark("vit")
    online = split_online_stream(made.train_stream, experience_size=4)
    with pytest.raises(ConfigError, match="whole tasks"):
        strategy.train(next(iter(online)))
    strategy.train(made.train_stream[0])  # no memory yet, and its own batches
    with pytest.raises(ConfigError, match="such as replay"):
        strategy.train(made.train_stream[1])

    class Mine(LwFPlugin):
        """Inherits its hooks."""

    with pytest.raises(ConfigError, match="Mine, which has"):
        PromptStrategy(learner=build("l2p", "vit"), plugins=[Mine()])


def test_the_mask_of_the_learner_is_kept():
    learner = Learner(prompted("linear_head", "vit"), mask="seen", quiet=True)
    strategy = PromptStrategy(learner=learner)
    assert strategy.model.prompted.mask == "seen"


class Plain(torch.utils.data.Dataset):
    """Rows as mappings."""

    def __init__(self):
        self.targets = [0, 1, 0, 1]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return {"x": torch.zeros(3, 8, 8), "y": self.targets[index]}


def test_what_does_not_fit_is_refused_with_a_remedy():
    made = benchmark("vit")
    first = made.train_stream[0]
    backbone = tiny.backbone("vit")
    bare = strategy_of(Naive, torch.nn.Sequential(torch.nn.Flatten(), backbone.model.pooler.dense))
    with pytest.raises(ConfigError, match="AvalancheModel"):
        bare.train(first)
    other = naive("l2p_growing", "vit")
    other.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ConfigError, match=r"model.parameters\(\)"):
        other.train(first)
    inside = naive("l2p_growing", "vit")
    inside.model.encoder = backbone.model
    with pytest.raises(ConfigError, match="of its parameters registered inside it"):
        inside.train(first)
    del inside.model.encoder
    inside.optimizer = torch.optim.SGD(backbone.model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="of its parameters in the optimiser"):
        inside.train(first)
    empty = benchmark_from_datasets(train=[first.dataset.subset([])])
    for strategy in (naive("l2p_growing", "vit"), PromptStrategy(learner=build("ncm", "vit"))):
        with pytest.raises(DataError, match="with samples"):
            strategy.train(empty.train_stream[0])
    nothing = [first.dataset.subset([])]
    with pytest.raises(DataError, match="with samples"):
        as_stream(benchmark_from_datasets(train=nothing, test=nothing))
    mapped = as_classification_dataset(Plain())
    mapping = benchmark_from_datasets(train=[mapped])
    for refused in (
        lambda: naive("l2p_growing", "vit").train(mapping.train_stream[0]),
        lambda: PromptStrategy(learner=build("ncm", "vit")).train(mapping.train_stream[0]),
        lambda: naive("ncm", "vit").eval(mapping.train_stream[0]),
        lambda: as_stream(benchmark_from_datasets(train=[mapped], test=[mapped])),
    ):
        with pytest.raises(DataError, match="tuples"):
            refused()
    bare = Naive(
        model=AvalancheModel(prompted("ncm", "vit")),
        optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
    )
    with pytest.raises(StateError, match="PromptPoolPlugin"):
        bare.train(first)
    two = naive("hide_prompt", "vit")
    two.optimizer = torch.optim.SGD(
        [{"params": two.model.parameters()}, {"params": [torch.nn.Parameter(torch.zeros(1))]}], 0.1
    )
    with pytest.raises(ConfigError, match="one group"):
        two.train(first)
    uneven = as_benchmark(stream("vit"))
    fewer = benchmark_from_datasets(
        train=[e.dataset for e in uneven.train_stream],
        test=[e.dataset for e in uneven.test_stream[:2]],
    )
    with pytest.raises(DataError, match="or one for each of 3"):
        as_stream(fewer)


def test_tensors_become_what_a_processor_reads():
    assert decoded(encoded(["zwölf Boxkämpfer", "", "日本"])) == ["zwölf Boxkämpfer", "", "日本"]
    grey = torch.rand(2, 1, 5, 7)
    assert raw_inputs(grey).shape == (2, 5, 7)
    assert raw_inputs(torch.zeros(2, 3, 5, 7, dtype=torch.uint8)).shape == (2, 5, 7, 3)
    assert raw_inputs(torch.zeros(2, 5, 7, 3)).shape == (2, 5, 7, 3)
    for wrong in (torch.zeros(2, 4), torch.zeros(2, 3, 4, dtype=torch.int64)):
        with pytest.raises(DataError, match="one tensor"):
            raw_inputs(wrong)
    pixels = AvalancheModel(prompted("ncm", "vit"), inputs="pixels")
    with pytest.raises(DataError, match="pixel values"):
        pixels.batch(torch.zeros(2, 8, 8, dtype=torch.uint8))
    assert encoded(["a"], 4).tolist() == [[97, 0, 0, 0]]
    with pytest.raises(DataError, match="one tensor"):
        raw_inputs(encoded(["ab"]), texts=False)


def test_without_avalanche_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in [n for n in sys.modules if n.startswith("cpool.interop.avalanche")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[avalanche\]"):
        importlib.import_module("cpool.interop.avalanche")
