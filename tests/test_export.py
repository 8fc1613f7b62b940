"""Exported programs answer as the model does, in torch and in ONNX, in batches of any size."""

import importlib.util
import json
from functools import cache

import pytest
import torch

from cpool._io import sha256_of_bytes
from cpool.errors import (
    BackboneError,
    ConfigError,
    MissingDependencyError,
    PoolError,
    StateError,
    UnknownNameError,
)
from cpool.export import _program, export_prompted, export_query, export_selector
from cpool.export._pass import FixedPass
from cpool.export._policies import chooser_of
from cpool.inject import encode
from cpool.methods import (
    EASE,
    L2P,
    NCM,
    CODAPrompt,
    DualPrompt,
    FineTune,
    FirstSessionPrompt,
    OSPrompt,
    PromptTuning,
    SPrompts,
)
from cpool.policies import GaussianRouter, NearestCentroid, TopK
from cpool.readout import LayersReadout, read
from cpool.selection import Selection
from tests import tiny

CLASSES = [(3, 7), (1, 5)]
METHODS = {
    "ncm": NCM,
    "l2p": lambda: L2P(slots_per_task=2, top_k=2, length=2),
    "coda": lambda: CODAPrompt(slots_per_task=2, length=2),
    "dualprompt": lambda: DualPrompt(
        general_layers=(0,), expert_layers=(0, 2), general_length=1, expert_length=2
    ),
    "sprompts": lambda: SPrompts(length=2, centroids=2),
    "first_session": lambda: FirstSessionPrompt(length=2),
    "ridge": lambda: FirstSessionPrompt(length=2, classifier="ridge"),
    "ease": lambda: EASE(length=2),
    "osprompt": OSPrompt,
    "fine_tune": FineTune,
}
pytestmark = [
    # Of copyreg and pytree inside torch's own exporters.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:(torch|copyreg|onnx).*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:(torch|copyreg|onnx).*"),
]


@cache
def trained(kind: str, method: str):
    """Return a model with two tasks, each after one large step."""
    torch.manual_seed(0)
    model = METHODS[method]().build(tiny.backbone(kind))
    for task, classes in enumerate(CLASSES):
        batch = {**tiny.batch(kind, 12, seed=task), "labels": torch.tensor(classes * 6)}
        model.begin_task(classes, batches=[batch])
        if model.trains(task) and next(model.parameters(), None) is not None:
            model(batch, task=task).loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.3 * parameter.grad)
        model.end_task([batch])
    return model.eval()


def fixed(model, chosen, monkeypatch):
    """Let the model choose these slots for every sample."""
    for branch in model.prompter:
        index = torch.tensor([list(chosen[branch.name])])
        weight = None
        if isinstance(chosen[branch.name], dict):
            weight = torch.tensor([list(chosen[branch.name].values())])

        def forward(query, task=None, available=None, index=index, weight=weight):
            return Selection(index, weight, torch.zeros(()))

        monkeypatch.setattr(branch.policy, "forward", forward)


def run(path, inputs):
    """Return what a program answers."""
    if path.suffix == ".pt2":
        made = torch.export.load(path).module()(**inputs)
        return [made] if isinstance(made, torch.Tensor) else list(made)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    answers = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(answer) for answer in answers]


def compare(path, model, kind, task=None):
    """Hold a program against the model, for batches unlike the example's."""
    for size, seed in ((1, 5), (7, 6)):
        batch = tiny.batch(kind, size, seed=seed)
        for side in ("right", "left") if "attention_mask" in batch else ("right",):
            inputs = tiny.padded(batch, 2, side)
            with torch.no_grad():
                expected = model(inputs, task=task).logits
            (logits,) = run(path, inputs)
            assert logits.shape == (size, 4)
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


CASES = [
    ("vit", "ncm", None, "torch"),
    ("bert", "dualprompt", 0, "torch"),
    ("llama", "sprompts", 0, "torch"),
    ("vit", "dualprompt", 1, "onnx"),
    ("bert", "sprompts", 1, "onnx"),
]


@pytest.mark.parametrize(("kind", "method", "task", "form"), CASES)
def test_a_program_answers_as_the_model_that_is_told_the_task(kind, method, task, form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    model = trained(kind, method)
    path = export_prompted(model, tmp_path / "new" / "it", task=task, format=form)
    assert path.name == {"torch": "it.pt2", "onnx": "it.onnx"}[form]
    compare(path, model, kind, task)


def test_named_slots_in_their_order(tmp_path, monkeypatch):
    model = trained("vit", "l2p")
    path = export_prompted(model, tmp_path / "it.pt2", slots={"pool": [2, 1]})
    fixed(model, {"pool": [2, 1]}, monkeypatch)
    compare(path, model, "vit")


def test_weighted_slots(tmp_path, monkeypatch):
    model = trained("vit", "coda")
    slots = {branch.name: {0: 0.3, 3: 0.5} for branch in model.prompter}
    path = export_prompted(model, tmp_path / "it", slots=slots)
    about = json.loads((tmp_path / "it.pt2.json").read_text())
    weights = [row["weight"] for row in about["slots"]["layer1"]]
    assert weights == pytest.approx([0.3, 0.5])
    fixed(model, slots, monkeypatch)
    compare(path, model, "vit")


@pytest.mark.parametrize("kind", tiny.VISION + tiny.ENCODERS + tiny.DECODERS + tiny.SEQ2SEQ)
def test_the_pass_is_that_of_the_model(kind):
    backbone, inputs = tiny.backbone(kind), tiny.batch(kind, 3)
    both = LayersReadout((1, backbone.num_layers), ("cls", "mean"))
    readouts = ("query", "prompts", "tokens", *(("cls", both) if backbone.has_cls else ()))
    for what in ("none", "tokens") if kind in tiny.NO_PREFIX else ("none", "tokens", "both"):
        prompts = None if what == "none" else tiny.prompts(kind, 1, what)
        for side in ("left", "right"):
            batch = tiny.padded(inputs, 1, side)
            with torch.no_grad():
                encoded = encode(backbone, batch, prompts, all_layers=True)
                for readout in readouts:
                    expected = read(readout, backbone, encoded)
                    made = FixedPass(backbone, readout, prompts)(batch)
                    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def policy_of(name: str):
    """Return a policy that has seen two tasks of queries, and some queries of its own."""
    rng = torch.Generator().manual_seed(1)
    queries = torch.randn(40, 8, generator=rng)
    if name == "topk":
        policy = TopK(8, k=2)
    elif name == "topk_threshold":
        policy = TopK(8, k=2, threshold=0.4)
    elif name in ("l1", "l2"):
        near = {"l1": -2.0, "l2": -5.0}[name]
        policy = NearestCentroid(8, 3, metric=name, normalize=name == "l1", threshold=near)
    else:
        policy = GaussianRouter(8, soft=name == "soft", normalize=name == "soft")
    for task in range(4):
        policy.grow(1, task)
        policy.end_task(queries[10 * task : 10 * task + 10] + task, task)
    return policy.eval()


@pytest.mark.parametrize("name", ["topk", "topk_threshold", "l1", "l2", "hard", "soft"])
def test_a_chooser_chooses_as_the_policy(name):
    policy = policy_of(name)
    query = 2 * torch.randn(50, 8) + 1
    for free in ([True] * 4, [False, True, False, True], [False, False, True, False]):
        available = torch.tensor(free)
        chooser = chooser_of("it", policy, available)
        got = dict(zip(chooser.names, chooser(query), strict=True))
        expected = policy(query, None, available)
        assert torch.equal(got["slots"], expected.index)
        torch.testing.assert_close(got["nearness"], expected.similarity, atol=1e-5, rtol=1e-5)
        for key, value in (("weights", expected.weight), ("fits", expected.fits)):
            assert (key in got) == (value is not None)
            if value is not None:
                torch.testing.assert_close(got[key], value)
        if name in ("topk_threshold", "l1", "l2") and all(free):
            assert 0 < int(got["fits"].sum()) < 50


def test_ties_go_to_the_lowest_slot():
    policy = policy_of("topk")
    with torch.no_grad():
        for block in policy.keys.blocks:
            block.fill_(1.0)
    slots, _ = chooser_of("it", policy, torch.ones(4, dtype=torch.bool))(torch.randn(5, 8))
    assert slots.tolist() == [[0, 1]] * 5


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("dualprompt", "torch"),
        ("dualprompt", "onnx"),
        ("sprompts", "onnx"),
        ("gaussian", "torch"),
        ("gaussian", "onnx"),
    ],
)
def test_a_selector_chooses_as_the_model(method, form, tmp_path, monkeypatch):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    model = trained("vit", method.replace("gaussian", "sprompts"))
    if method == "gaussian":
        router = GaussianRouter(32, soft=True)
        for task in range(2):
            router.grow(1, task)
            router.end_task(torch.randn(20, 32) + 0.1 * task, task)
        monkeypatch.setitem(model.prompter.branches["domain"]._modules, "policy", router.eval())
    path = export_selector(model, tmp_path / "selector", format=form)
    names = json.loads(path.with_name(path.name + ".json").read_text())["outputs"]
    for size in (1, 6):
        query = torch.randn(size, 32)
        got = dict(zip(names, run(path, {"query": query}), strict=True))
        for branch in model.prompter:
            expected = branch.policy(query, None, branch.pool.available(training=False))
            index = expected.index.expand(size, -1)
            assert torch.equal(got[f"{branch.name}.slots"], index)
            for what, value in (("nearness", expected.similarity), ("weights", expected.weight)):
                if value is not None:
                    made = got[f"{branch.name}.{what}"]
                    torch.testing.assert_close(made, value, atol=1e-4, rtol=0)
                assert (f"{branch.name}.{what}" in got) == (value is not None)


def test_query_selector_and_program_make_a_whole(tmp_path):
    model = trained("vit", "sprompts")
    query = export_query(model, tmp_path / "query")
    selector = export_selector(model, tmp_path / "selector")
    programs = [export_prompted(model, tmp_path / str(s), slots={"domain": [s]}) for s in (0, 1)]
    batch = tiny.batch("vit", 8, seed=3)
    (features,) = run(query, batch)
    torch.testing.assert_close(features, model.query(batch), atol=1e-4, rtol=0)
    slots = run(selector, {"query": features})[0][:, 0].tolist()
    assert set(slots) == {0, 1}
    with torch.no_grad():
        expected = model(batch).logits
    for row, slot in enumerate(slots):
        alone = tiny.unpadded(batch, row)
        (logits,) = run(programs[slot], alone)
        torch.testing.assert_close(logits[0], expected[row], atol=1e-4, rtol=0)


def test_the_json_says_what_it_is_and_no_data_travel(tmp_path):
    model = trained("vit", "ridge")
    path = export_prompted(model, tmp_path / "it")
    about = json.loads((tmp_path / "it.pt2.json").read_text())
    assert about["classes"] == [3, 7, 1, 5]
    assert about["backbone"]["fingerprint"] == model.backbone.fingerprint
    assert about["method"]["name"] == "first_session_prompt"
    assert about["inputs"] == {
        "pixel_values": {"type": "float32", "shape": ["batch", 3, tiny.IMAGE, tiny.IMAGE]}
    }
    assert about["outputs"] == ["logits"]
    assert about["slots"] == {"session": [{"slot": 0, "id": 0, "name": "task0", "task": 0}]}
    assert about["sha256"] == sha256_of_bytes(path.read_bytes())
    compare(path, model, "vit")
    program = torch.export.load(path)
    kept = [*program.state_dict.values(), *program.constants.values()]
    rows = model.head.lasting.get_buffer("rows")
    assert len(rows) == 24
    assert not [tensor for tensor in kept if tensor.shape == rows.shape]
    assert not any(tensor.any() for tensor in program.example_inputs[1].values())


def test_a_model_that_is_large_has_its_tensors_in_a_second_file(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(_program, "LARGEST", 1000)
    model = trained("vit", "ncm")
    path = export_prompted(model, tmp_path / "it", format="onnx")
    assert (tmp_path / "it.onnx.data").is_file()
    assert json.loads((tmp_path / "it.onnx.json").read_text())["sha256"] is None
    compare(path, model, "vit")


@pytest.mark.parametrize(
    ("method", "options", "error", "words"),
    [
        ("l2p", {}, ConfigError, "Name them: slots="),
        ("l2p", {"slots": {"pool": [0, 1]}, "task": 0}, ConfigError, "got both"),
        ("l2p", {"slots": {"poll": [0]}}, UnknownNameError, "Did you mean 'pool'"),
        ("l2p", {"slots": {"pool": [9]}}, PoolError, "below 4"),
        ("l2p", {"slots": {"pool": []}}, PoolError, "each once"),
        ("l2p", {"slots": {"pool": [1, 1]}}, PoolError, "each once"),
        ("coda", {"task": 0}, ConfigError, "where the policy sums"),
        ("ncm", {"task": 2}, ConfigError, "from 0 to 1"),
        ("ease", {"task": 0}, BackboneError, "one pass a sample"),
        ("osprompt", {"task": 0}, BackboneError, "before the pass"),
        ("fine_tune", {}, BackboneError, "fine-tuned copy"),
    ],
)
def test_what_cannot_be_one_program_is_refused(method, options, error, words, tmp_path):
    model = trained("vit", method)
    with pytest.raises(error, match=words):
        export_prompted(model, tmp_path / "it", **options)
    assert not list(tmp_path.iterdir())


def test_refusals_of_models_and_files(tmp_path):
    words = PromptTuning(length=2, labels=("red", "blue")).build(tiny.backbone("gpt2"))
    with pytest.raises(StateError, match="begin_task"):
        export_prompted(words, tmp_path / "it")
    words.begin_task([0, 1])
    with pytest.raises(BackboneError, match="scores words"):
        export_prompted(words, tmp_path / "it", task=0)
    with pytest.raises(ConfigError, match="for format 'onnx'"):
        export_prompted(trained("vit", "ncm"), tmp_path / "it.pt2", format="onnx")
    with pytest.raises(ConfigError, match='"torch" or "onnx"'):
        _program.checked_path(tmp_path / "it", "tflite")
    amid = FirstSessionPrompt(length=2).build(tiny.backbone("vit"))
    amid.begin_task([0, 1], batches=[{**tiny.batch("vit", 2), "labels": torch.tensor([0, 1])}])
    amid.prompter.branches["session"].pool.mark_trained(torch.tensor([[0]]))
    with pytest.raises(StateError, match="still trains"):
        export_prompted(amid, tmp_path / "it")
    fresh = L2P(slots_per_task=2, top_k=2, length=2).build(tiny.backbone("vit"))
    fresh.begin_task([0, 1])
    with pytest.raises(PoolError, match="were trained"):
        export_prompted(fresh, tmp_path / "it", slots={"pool": [0]})
    assert not list(tmp_path.iterdir())


def test_refusals_of_selectors(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="prompts to select from"):
        export_selector(trained("vit", "ncm"), tmp_path / "it")
    with pytest.raises(BackboneError, match="before the pass"):
        export_selector(trained("vit", "osprompt"), tmp_path / "it")
    with pytest.raises(ConfigError, match="SoftAttention, in branch 'layer0'"):
        export_selector(trained("vit", "coda"), tmp_path / "it")
    policy = policy_of("topk")
    policy.search = "faiss"
    with pytest.raises(ConfigError, match="by FAISS"):
        chooser_of("it", policy, torch.ones(4, dtype=torch.bool))
    with pytest.raises(PoolError, match="at least 1 slots"):
        chooser_of("it", policy, torch.zeros(4, dtype=torch.bool))
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    with pytest.raises(MissingDependencyError, match=r"continual-prompt-pool\[onnx\]"):
        export_selector(trained("vit", "sprompts"), tmp_path / "it", format="onnx")
