"""Files, seeds, settings, progress, batches, optimisers: the small parts that others rely on."""

import os
import stat

import numpy as np
import pytest
import torch
from PIL import Image

from cpool import _io
from cpool.data import GroupedBatches, PreparedCache, as_examples, batches, by_length, make_loader
from cpool.errors import CheckpointError, ConfigError, DataError, nearest, unknown
from cpool.meter import (
    PeakMemory,
    TrainedCount,
    flops_per_sample,
    stored_bytes,
    trained_parameters,
)
from cpool.methods import NCM, DualPrompt, FineTune, method_from
from cpool.optimise import make_optimizer
from cpool.progress import Progress
from cpool.seeding import derive, seeded
from cpool.settings import TrainSettings
from tests import tiny
from tests.common.tasks import build, stream, trained


def test_a_file_is_old_or_new_and_never_half(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    _io.write_json(path, {"x": 1})

    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(CheckpointError, match="nothing was changed"):
        _io.write_json(path, {"x": 2})
    assert _io.read_json(path) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_files_can_be_read_by_whoever_the_umask_allows(tmp_path):
    _io.write_bytes(tmp_path / "x", b"1")
    mode = stat.S_IMODE((tmp_path / "x").stat().st_mode)
    assert mode == 0o666 & ~_io._UMASK


def test_json_has_a_row_of_a_matrix_on_a_line(tmp_path):
    value = {"m": [[0.5, None], [-1e-05, 2]], "s": "[\n 1,\n 2\n]", "w": ["a", 1], "e": []}
    _io.write_json(tmp_path / "x", value)
    text = (tmp_path / "x").read_text()
    assert "  [0.5, null],\n  [-1e-05, 2]\n" in text
    assert _io.read_json(tmp_path / "x") == value


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        _io.write_json(tmp_path / "x", float("nan"))


def test_the_hash_of_tensors_sees_names_types_shapes_and_values():
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.float64)},
        {"a": torch.zeros(2, 3).index_fill(0, torch.tensor(0), 1e-30)},
    ]
    digests = {_io.sha256_of_tensors(t) for t in [base, *others]}
    assert len(digests) == 5
    assert _io.sha256_of_tensors({"a": torch.zeros(2, 3)}) in digests


def test_seeded_work_repeats_and_leaves_the_callers_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, "build"):
        first = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, "build"):
        assert torch.equal(torch.rand(2), first)
    assert derive(1, 2) != derive(12)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs at least 1"),
        ({"momentum": 1.0}, "momentum from 0"),
        ({"learning_rate": 1.0}, "a training setting"),
        ({"epoch": 1}, "Did you mean 'epochs'"),
    ],
)
def test_settings_that_cannot_train(change, says):
    with pytest.raises(ConfigError, match=says):
        TrainSettings().but(**change)


def test_the_nearest_name_is_offered():
    assert nearest("Dual-Prompt", ["dualprompt", "l2p"]) == "dualprompt"
    assert nearest("zzzz", ["dualprompt"]) is None
    assert "Choose one" in str(unknown("method", "zzzz", ["l2p"]))
    with pytest.raises(ConfigError, match="Did you mean 'top_k'"):
        method_from("l2p", {"topk": 2})


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adafactor"])
def test_the_optimiser_holds_exactly_what_trains(name):
    model = trained("dualprompt", "vit").learner.model
    optimizer = make_optimizer(model, TrainSettings(optimizer=name, weight_decay=0.25, lr=0.5))
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    assert type(optimizer).__name__.lower() == name


def test_two_steps_of_adafactor_by_hand():
    run = build("linear_head", "vit")
    run.train = run.train.but(optimizer="adafactor", lr=0.5, weight_decay=0.1)
    run.model.begin_task([0, 1])
    weight = next(p for p in run.model.parameters() if p.dim() == 2)
    optimizer = make_optimizer(run.model, run.train)
    expected = weight.detach().double().clone()
    rows, columns = torch.zeros(len(weight)).double(), torch.zeros(weight.shape[1]).double()
    for step in (1, 2):
        for p in run.model.parameters():
            p.grad = torch.full_like(p, 0.01)
        weight.grad = torch.arange(1.0, weight.numel() + 1).view_as(weight) / step
        gradient = weight.grad.double()
        optimizer.step()
        # Shazeer and Stern 2018: a second moment of rank 1, its decay 1 − t^−0.8, updates of
        # root mean square 1 at most; the rate is what was asked for.
        keep = 1 - step**-0.8
        rows = keep * rows + (1 - keep) * (gradient**2).mean(dim=1)
        columns = keep * columns + (1 - keep) * (gradient**2).mean(dim=0)
        second = rows[:, None] * columns[None] / rows.mean()
        update = gradient / second.sqrt()
        update = update / max(1.0, float(update.pow(2).mean().sqrt()))
        expected = expected * (1 - 0.1 * 0.5) - 0.5 * update
        torch.testing.assert_close(weight.double(), expected, atol=1e-5, rtol=1e-5)


def test_cosine_ends_at_zero_and_clipping_limits_the_step():
    run = build("linear_head", "vit", optimizer="sgd")
    run.train = run.train.but(schedule="cosine", epochs=3, clip_norm=1e-6, momentum=0.0, lr=1.0)
    run.fit_task(stream("vit")[0])
    moved = run.model.head.biases[0].detach().norm()
    steps = 3 * 2
    assert 0 < moved <= 1e-6 * steps, "each step moves by at most lr · clip_norm"


def test_without_a_terminal_progress_is_silent(capsys):
    bars = Progress()
    assert not bars.shown
    assert list(bars.track(range(3), "work")) == [0, 1, 2]
    bars.note("hello")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_bars_nest_and_go_away(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bars = Progress()
    assert bars.shown
    for _ in bars.track(range(2), "outer"):
        for _ in bars.track(range(2), "inner"):
            bars.note("a line")
    assert bars._bars is None


def test_batches_in_order_and_shuffled_by_seed():
    examples = stream("vit")[0].train
    backbone = tiny.backbone("vit")
    plain = [b["labels"].tolist() for b in batches(examples, backbone, 5)]
    assert [label for batch in plain for label in batch] == examples.y.tolist()
    assert [len(b) for b in plain] == [5, 5, 2]

    def order(seed):
        loader = make_loader(examples, backbone, 5, shuffle=True, seed=seed, inputs=False)
        return [b["labels"].tolist() for b in loader]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_prepared_images_are_kept_up_to_a_limit():
    examples, backbone = stream("vit")[0].train, tiny.backbone("vit")
    cache = PreparedCache()
    first = cache.get(backbone, examples)
    assert cache.get(backbone, examples) is first
    assert torch.equal(first["pixel_values"], backbone.prepare(examples.x)["pixel_values"])
    size = first["pixel_values"].numel() * 4
    assert PreparedCache(size - 1).get(backbone, examples) is None
    small = PreparedCache(size + 10)
    small.get(backbone, examples)
    small.get(backbone, stream("vit")[1].train)
    assert len(small._kept) == 1
    assert PreparedCache().get(tiny.backbone("bert"), stream("bert")[0].train) is None


def test_prepared_images_follow_the_processor():
    examples, backbone, cache = stream("vit")[0].train, tiny.KINDS["vit"](), PreparedCache()
    first = cache.get(backbone, examples)["pixel_values"]
    backbone.processor.image_mean = [0.1, 0.2, 0.3]
    second = cache.get(backbone, examples)["pixel_values"]
    assert torch.equal(second, backbone.prepare(examples.x)["pixel_values"])
    assert not torch.equal(first, second)


def test_texts_are_ordered_by_length_and_images_are_not():
    texts = as_examples(["a long text", "a", "a text"])
    assert by_length(texts).tolist() == [1, 2, 0]
    assert by_length(stream("vit")[0].train).tolist() == list(range(12))


def test_predictions_come_back_in_the_order_of_the_inputs():
    run = build("ncm", "bert")
    run.fit_task(stream("bert")[0])
    x = stream("bert")[0].test.x
    one_by_one = np.array([run.predict([text])[0] for text in x])
    assert np.array_equal(run.predict(list(x)), one_by_one)


def test_examples_of_the_same_inputs_have_the_same_source():
    a, b = as_examples((["x", "y"], [0, 1])), as_examples(["x", "y"])
    assert a.source == b.source
    assert a.source != as_examples(["x", "z"]).source
    assert as_examples(torch.zeros(2, 8, 8)).x.shape == (2, 8, 8)
    with pytest.raises(DataError, match="whole numbers"):
        as_examples((["x"], torch.tensor([0.5])))


def test_the_source_of_inputs_sees_type_shape_and_values():
    base = np.arange(64, dtype=np.int32).reshape(2, 4, 8)
    inputs = [
        base,
        base.reshape(2, 8, 4),
        base.view(np.float32),
        base.astype(np.int64),
        base + 1,
        [base],  # one item, where the array has two
        [base[0], base[1]],
        [base[0].T, base[1]],
        ["ab", "c"],
        ["a", "bc"],
        [b.tobytes().decode("latin-1") for b in base],
    ]
    assert len({as_examples(x).source for x in inputs}) == len(inputs)


def test_equal_inputs_in_other_containers_have_the_same_source():
    base = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    source = as_examples(list(base)).source
    objects = np.empty(2, object)
    objects[0], objects[1] = base
    assert as_examples(objects).source == source
    assert as_examples(list(torch.from_numpy(base))).source == source
    assert as_examples([Image.fromarray(image) for image in base]).source == source
    assert as_examples(torch.from_numpy(base)).source == as_examples(base).source
    assert as_examples(base[:, ::-1]).source == as_examples(base[:, ::-1].copy()).source
    assert as_examples(np.array(["a", "b"], object)).source == as_examples(["a", "b"]).source


def test_images_with_another_palette_have_another_source():
    sources = set()
    for colour in (10, 20):
        image = Image.fromarray(np.zeros((4, 4), np.uint8), "L").convert("P")
        image.putpalette([colour] * 768)
        sources.add(as_examples([image]).source)
    assert len(sources) == 2


def test_files_count_by_what_is_in_them(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.png", "same.png", "other.png"))
    for path, value in ((one, 0), (same, 0), (other, 1)):
        Image.new("L", (4, 4), value).save(path)
    source = as_examples([one]).source
    assert source == as_examples([same]).source
    assert source != as_examples([other]).source
    assert source != as_examples([str(one)]).source
    with pytest.raises(DataError, match=r"read; got .*missing\.png: No such file"):
        as_examples([tmp_path / "missing.png"])


@pytest.mark.parametrize(
    ("x", "says"),
    [([3, 4], "got int"), ([b"a"], "got bytes"), ([None], "NoneType"), ([object()], "got object")],
)
def test_inputs_of_other_types_have_no_source(x, says):
    with pytest.raises(DataError, match=f"expected texts, arrays, PIL images or paths; .*{says}"):
        as_examples(x)
    rows = np.empty((1, 1), object)
    rows[0] = x[:1]
    with pytest.raises(DataError, match="array of objects"):
        as_examples(rows)


def test_costs_are_counted_not_guessed():
    dual = DualPrompt(general_layers=(0,), expert_layers=(1, 2), general_length=2, expert_length=3)
    model = dual.build(tiny.backbone("vit"))
    count = TrainedCount(model)
    for classes in ([0, 1], [2, 3, 4]):
        model.begin_task(classes)
        count.add(model)
    width = tiny.WIDTH
    prompts = 2 * 2 * width + 2 * (4 * 3 * width)  # a general prefix, two experts of two layers
    parameters = trained_parameters(model, count)
    assert parameters == prompts + 2 * width + 5 * (width + 1)
    assert stored_bytes(model) >= 4 * parameters
    frozen_pass = NCM().build(tiny.backbone("vit"))
    frozen_pass.begin_task([0])
    batch = tiny.batch("vit", 3)
    once, twice = flops_per_sample(frozen_pass, batch), None
    model.prompter.branches["general"].pool.mark_trained(torch.tensor([[0]]))
    model.prompter.branches["expert"].pool.mark_trained(torch.tensor([[0, 1]]))
    twice = flops_per_sample(model, batch)
    assert 2 * once <= twice < 2.5 * once, "a query pass and a prompted pass"
    tuned = FineTune().build(tiny.backbone("vit"))
    count = TrainedCount(tuned)
    count.add(tuned)
    expected = sum(p.numel() for p in tiny.backbone("vit").parameters())
    assert trained_parameters(tuned, count) == expected


def test_peak_memory_sees_what_is_allocated():
    meter = PeakMemory(torch.device("cpu"), seconds=0.005)
    with meter.measure():
        block = torch.ones(64 << 20, dtype=torch.uint8)
        low = block.numel()
    assert meter.peak is not None
    assert meter.peak > low


@pytest.mark.parametrize("kind", ["vit", "llama"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_reading_batches_leaves_the_random_numbers_of_a_task_alone(kind, shuffle):
    rows = as_examples((tiny.raw(kind, 9), np.arange(9)))
    loader = make_loader(rows, tiny.backbone(kind), 4, shuffle=shuffle)
    before = torch.get_rng_state()
    assert sum(len(batch["labels"]) for batch in loader) == 9
    assert torch.equal(torch.get_rng_state(), before)


def test_grouped_batches_hold_every_row_once_at_random_with_little_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    sampler = GroupedBatches(lengths, 10, torch.Generator().manual_seed(0), stretch=20)
    first, second = list(sampler), list(sampler)
    for made in (first, second):
        assert sorted(row for batch in made for row in batch) == list(range(1000))
        assert len(made) == len(sampler) == 100
    assert first != second
    again = GroupedBatches(lengths, 10, torch.Generator().manual_seed(0), stretch=20)
    assert list(again) == first
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert padded < 1.1 * lengths.sum(), "a plain shuffle pads to 1.8 times"
    order = [lengths[batch].mean() for batch in first]
    assert abs(np.corrcoef(order, range(100))[0, 1]) < 0.4, "short texts do not come first"
