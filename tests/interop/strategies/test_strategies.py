"""A prompt pool under the strategies of Avalanche: those that train it, and those that cannot."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark, with_task_labels
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin, LwFPlugin, SupervisedPlugin
from avalanche.training.supervised import (
    AGEM,
    EWC,
    GEM,
    MAS,
    BiC,
    Cumulative,
    CWRStar,
    GDumb,
    ICaRL,
    JointTraining,
    LwF,
    Naive,
    Replay,
    SynapticIntelligence,
)
from torch import nn
from torch.utils.data import TensorDataset

from cpool.errors import ConfigError, DataError, StateError
from cpool.interop.avalanche import (
    AvalancheModel,
    MatrixMetrics,
    PromptPoolPlugin,
    ToldAvalancheModel,
    as_benchmark,
)
from cpool.settings import TrainSettings
from tests import tiny
from tests.common.rows import ROWS
from tests.common.tasks import stream
from tests.conftest import ROOT
from tests.interop.strategies.runs import benchmark, naive, prompted, strategy_of

# Avalanche's own, about its own and numpy's.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
]

WORK = {
    "Naive": (Naive, {}),
    "Replay": (Replay, {"mem_size": 12}),
    "EWC": (EWC, {"ewc_lambda": 0.5}),
    "LwF": (LwF, {"alpha": 1.0, "temperature": 2.0}),
    "SI": (SynapticIntelligence, {"si_lambda": 0.1}),
    "MAS": (MAS, {}),
    "GEM": (GEM, {"patterns_per_exp": 4}),
    "AGEM": (AGEM, {"patterns_per_exp": 4, "sample_size": 4}),
    "Cumulative": (Cumulative, {}),
}


class Finite(SupervisedPlugin):
    """Looks at every loss."""

    def before_update(self, strategy, **_):
        assert torch.isfinite(strategy.loss)


class Started(SupervisedPlugin):
    """Notes what trains when an experience has begun."""

    def __init__(self, into):
        super().__init__()
        self.into = into

    def before_training_exp(self, strategy, **_):
        named = strategy.model.named_parameters()
        self.into.update({name: p.detach().clone() for name, p in named})


CELLS = [(name, row, "vit") for name in WORK for row in ("l2p_growing", "linear_head")]
CELLS += [(name, "prompt_tuning", "llama") for name in WORK]


@pytest.mark.parametrize(("name", "row", "kind"), CELLS)
def test_strategies_train_a_pool_and_move_nothing_that_is_frozen(name, row, kind):
    strategy_kind, options = WORK[name]
    model = AvalancheModel(prompted(row, kind))
    settings = {"train_epochs": 1, "train_mb_size": 6, "eval_every": 0}
    strategy = strategy_of(strategy_kind, model, Finite(), **settings, **options)
    backbone = {k: v.clone() for k, v in tiny.backbone(kind).state_dict().items()}
    made, frozen = benchmark(kind), {}
    for experience in made.train_stream:
        started = {}
        strategy.plugins.append(Started(started))
        strategy.train(experience)
        strategy.plugins.pop()
        now = dict(nn.Module.named_parameters(model))
        assert all(torch.equal(now[key], value) for key, value in frozen.items())
        assert any(not torch.equal(value, now[key]) for key, value in started.items()), name
        frozen = {k: p.detach().clone() for k, p in now.items() if not p.requires_grad}
        strategy.eval(made.test_stream)
    matrix = strategy.evaluator.metrics[0].matrix
    assert matrix.tasks == 3 and not np.isnan(matrix.values).any()
    assert all(torch.equal(v, backbone[k]) for k, v in tiny.backbone(kind).state_dict().items())


@pytest.mark.parametrize("row", ["ncm", "ranpac", "ease", "ranpac_first_session"])
@pytest.mark.parametrize("name", ["EWC", "MAS", "SI", "LwF"])
def test_penalties_hold_nothing_where_nothing_trains_any_more(name, row):
    kind, options = WORK[name]
    model = AvalancheModel(prompted(row, "vit"))
    strategy = strategy_of(kind, model, train_epochs=1, **options)
    made = benchmark("vit")
    for experience in made.train_stream:
        strategy.train(experience)
    strategy.eval(made.test_stream)
    assert len(model.prompted.tasks) == 3 and not model.running


def test_joint_training_begins_one_task_of_all_classes():
    model = AvalancheModel(prompted("ranpac", "vit"))
    strategy = strategy_of(JointTraining, model, train_epochs=4)
    made = benchmark("vit")
    strategy.train(made.train_stream)
    assert sorted(model.prompted.classes) == list(range(6)) and len(model.prompted.tasks) == 1
    strategy.eval(made.test_stream)
    found = strategy.eval(made.test_stream)
    cells = strategy.evaluator.metrics[0].matrix.values[2]  # as `cpool.Learner` has it
    assert found["cpool/average_accuracy/test_stream"] == pytest.approx(cells.mean())
    assert cells.mean() > 1 / 6


def test_strategies_that_start_anew_or_want_another_model_are_refused():
    strategy = strategy_of(GDumb, AvalancheModel(prompted("l2p_growing", "vit")), mem_size=12)
    first, second, _ = benchmark("vit").train_stream
    strategy.train(first)
    with pytest.raises(ConfigError, match="start anew"):
        strategy.train(second)


def test_cwr_star_finds_no_layer_of_its_kind():
    with pytest.raises(AssertionError, match="CWR layer"):
        strategy = strategy_of(
            CWRStar, AvalancheModel(prompted("l2p_growing", "vit")), cwr_layer_name="prompted.head"
        )
        for experience in benchmark("vit").train_stream:
            strategy.train(experience)


def test_icarl_brings_a_model_of_its_own():
    model = AvalancheModel(prompted("l2p_growing", "vit"))
    strategy = ICaRL(
        feature_extractor=model,
        classifier=nn.Linear(4, 6),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        memory_size=12,
        buffer_transform=None,
        fixed_memory=True,
        plugins=[PromptPoolPlugin()],
    )
    with pytest.raises(ConfigError, match="an AvalancheModel as the strategy's model"):
        strategy.train(benchmark("vit").train_stream[0])


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (LwF, {"alpha": 1.0, "temperature": 2.0}, "targets_task_labels"),
        (BiC, {"mem_size": 12}, "no setter"),
    ],
)
def test_what_the_page_says_to_fail_in_avalanche_fails_there_with_any_model(kind, options, says):
    data = TensorDataset(torch.rand(24, 3, 8, 8), torch.arange(6).repeat_interleave(4))
    data.targets = data.tensors[1].tolist()
    data = as_classification_dataset(data)
    made = class_incremental_benchmark({"train": data, "test": data}, num_experiences=3)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    strategy = kind(
        model=plain,
        optimizer=torch.optim.SGD(plain.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=6,
        train_epochs=1,
        **options,
    )
    with pytest.raises(AttributeError, match=says):
        for experience in made.train_stream:
            strategy.train(experience)


def test_the_page_lists_the_strategies_that_were_tried():
    text = (ROOT / "docs" / "pages" / "avalanche.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `(\w+)` \| (works|refused)", text, re.MULTILINE))
    works = {kind.__name__ for kind, _ in WORK.values()} | {"JointTraining"}
    assert {name for name, state in said.items() if state == "works"} == works
    assert {name for name, state in said.items() if state == "refused"} == {
        "GDumb",
        "CWRStar",
        "ICaRL",
    }


@pytest.mark.parametrize("mask", ["task", "seen"])
def test_classes_compete_as_the_method_wants_and_replayed_ones_always(mask):
    strategy = naive("linear_head", "vit")
    first, second, _ = benchmark("vit").train_stream
    strategy.train(first)
    strategy.train(second)
    model = strategy.model
    model.prompted.mask = mask
    model.train()
    from cpool.interop.avalanche.plugin import Competing

    loss = Competing(nn.CrossEntropyLoss(), model)
    old, new = (list(model.prompted.tasks[t]) for t in (0, 1))
    logits = torch.randn(2, 6)
    mine = torch.tensor([new[0], new[1]])
    classes = new if mask == "task" else old + new
    columns = {c: i for i, c in enumerate(classes)}
    wanted = nn.functional.cross_entropy(
        logits[:, classes], torch.tensor([columns[new[0]], columns[new[1]]])
    )
    torch.testing.assert_close(loss(logits, mine), wanted)
    mixed = torch.tensor([new[0], old[0]])  # a replayed sample
    seen = old + new
    wanted = nn.functional.cross_entropy(
        logits[:, seen], torch.tensor([seen.index(new[0]), seen.index(old[0])])
    )
    torch.testing.assert_close(loss(logits, mixed), wanted)
    smooth = Competing(nn.CrossEntropyLoss(label_smoothing=0.1), model)
    assert torch.isfinite(smooth(logits, mine))
    weight = torch.ones(6)
    weighted = Competing(nn.CrossEntropyLoss(weight=weight), model)
    torch.testing.assert_close(weighted(logits, mine), loss(logits, mine))
    logits[:] = 0.0
    assert float(loss(logits, mine)) == pytest.approx(np.log(len(classes)))


def test_an_anchor_competes_under_a_strategy_too():
    strategy = naive("linear_head", "vit")
    first, second, _ = benchmark("vit").train_stream
    strategy.train(first)
    strategy.train(second)
    model = strategy.model.train()
    model.prompted.compete(TrainSettings(anchor=2.5))
    from cpool.interop.avalanche.plugin import Competing

    new = list(model.prompted.tasks[1])
    logits, mine = torch.randn(2, 6), torch.tensor([new[0], new[1]])
    shares = logits.exp()
    wanted = -(logits[range(2), mine].exp() / (2.5 + shares[:, new].sum(dim=1))).log().mean()
    torch.testing.assert_close(Competing(nn.CrossEntropyLoss(), model)(logits, mine), wanted)
    weighted = Competing(nn.CrossEntropyLoss(weight=torch.ones(6)), model)
    with pytest.raises(ConfigError, match="weights of classes"):
        weighted(logits, mine)


def test_a_told_task_restricts_prompts_and_classes():
    told = as_benchmark(stream("vit").replaced(stream("vit")[:], scenario="task"))
    model = ToldAvalancheModel(prompted("progressive_prompts", "vit"))
    strategy = strategy_of(Naive, model, train_epochs=1)
    for experience in told.train_stream:
        strategy.train(experience)
    results = strategy.eval(told.test_stream)
    assert results["cpool/average_accuracy/test_stream"] > 0
    assert model.numbers == {0: 0, 1: 1, 2: 2}
    x = torch.stack([row[0] for row in told.test_stream[1].dataset])
    model.eval()
    with torch.no_grad():
        logits = model(x, torch.tensor([1] * len(x)))
        mixed = model(x, torch.tensor([1, 0] * (len(x) // 2)))
    assert torch.isinf(logits[:, [c for c in range(6) if c not in model.prompted.tasks[1]]]).all()
    torch.testing.assert_close(mixed[::2], logits[::2], atol=1e-5, rtol=1e-4)
    with pytest.raises(StateError, match="task labels that were trained"):
        model(x, 7)
    with pytest.raises(StateError, match="with_task_labels"):
        model(x)


def test_labels_that_tell_no_task_are_refused():
    model = ToldAvalancheModel(prompted("l2p_growing", "vit"))
    strategy = strategy_of(Naive, model, train_epochs=1)
    with pytest.raises(DataError, match="task labels"):
        strategy.train(benchmark("vit").train_stream[0])
    model = ToldAvalancheModel(prompted("l2p_growing", "vit"))
    strategy = strategy_of(Naive, model, train_epochs=1)
    first, second, _ = with_task_labels(benchmark("vit")).train_stream  # all of them 0
    strategy.train(first)
    with pytest.raises(ConfigError, match="of its own for every task"):
        strategy.train(second)


def test_heads_of_one_task_cannot_learn_what_is_replayed():
    strategy = strategy_of(Replay, AvalancheModel(prompted("sprompts", "vit")), mem_size=12)
    first, second, _ = benchmark("vit").train_stream
    strategy.train(first)
    with pytest.raises(DataError, match="a head for each task"):
        strategy.train(second)


@pytest.mark.parametrize("row", ["l2p_growing", "hide_prompt", "sprompts"])
def test_evaluation_before_and_while_a_task_is_learned(row):
    strategy = naive(row, "vit", eval_every=1)
    made = benchmark("vit")
    assert strategy.eval(made.test_stream) == {}  # of a new model: chance, and no cell
    if row == "l2p_growing":
        strategy.train(made.train_stream[0], eval_streams=[made.test_stream])
        assert strategy.evaluator.metrics[0].matrix.values[0, 0] >= 0
    else:
        with pytest.raises(StateError, match="between experiences"):
            strategy.train(made.train_stream[0], eval_streams=[made.test_stream])


def test_the_plugin_stands_first_and_looks_at_its_own_pass():
    model = AvalancheModel(prompted("l2p_growing", "vit"))
    late = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        plugins=[LwFPlugin(), PromptPoolPlugin()],
        evaluator=EvaluationPlugin(MatrixMetrics(), loggers=TextLogger(io.StringIO())),
    )
    with pytest.raises(ConfigError, match="in front"):
        late.train(benchmark("vit").train_stream[0])

    class Twice(SupervisedPlugin):
        def after_forward(self, strategy, **_):
            strategy.model(strategy.mb_x[:1])

    twice = naive("l2p_growing", "vit")
    twice.plugins.insert(1, Twice())
    with pytest.raises(ConfigError, match="once a step"):
        twice.train(benchmark("vit").train_stream[0])


def test_a_checkpoint_in_the_middle_gives_the_same_matrix(tmp_path):
    command = [sys.executable, "-m", "tests.interop.strategies.resuming", str(tmp_path)]
    environment = {**os.environ, "CPOOL_TYPECHECK": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    start, whole, resumed, good, bad = json.loads(done.stdout.splitlines()[-1])
    assert bad == {} and good == [*ROWS]
    assert start == 2
    assert resumed == whole
    assert all(None not in row for row in whole["accuracy_matrix"])
