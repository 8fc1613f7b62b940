"""DriftDetector: its numbers against loops, its rates with and without drift, its state."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cpool.drift import DriftDetector, judge
from cpool.drift.statistics import fit_gaussian, thresholds, window_statistics
from cpool.errors import ConfigError, DataError


def rows(n: int, width: int = 8, seed: int = 0, classes: int = 0) -> torch.Tensor:
    """Rows of a Gaussian, or of a mixture of several."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width))
    if classes:
        x += 2 * rng.normal(size=(classes, width))[rng.integers(0, classes, n)]
    return torch.from_numpy(x.astype(np.float32))


def naive_statistics(window: Any, mean: Any, precision: Any) -> list[float]:
    """The definition, in loops."""
    w, q = window.shape
    middle = [sum(float(window[i, j]) for i in range(w)) / w - float(mean[j]) for j in range(q)]
    t = sum(middle[a] * float(precision[a, b]) * middle[b] for a in range(q) for b in range(q)) * w
    d = 0.0
    for i in range(w):
        gap = [float(window[i, j]) - float(mean[j]) for j in range(q)]
        d += sum(gap[a] * float(precision[a, b]) * gap[b] for a in range(q) for b in range(q)) / w
    return [t, d, -d]


def test_statistics_are_those_of_the_definition() -> None:
    x = rows(12, 3).double()
    mean, precision = x[:6].mean(0), torch.linalg.inv(torch.cov(x.T))
    members = torch.zeros(2, 12, dtype=torch.float64)
    members[0, :4] = members[1, [1, 5, 7, 11]] = 1
    found = window_statistics(members, x, mean, precision)
    wanted = [
        naive_statistics(x[:4], mean, precision),
        naive_statistics(x[[1, 5, 7, 11]], mean, precision),
    ]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12)


def test_the_covariance_is_shrunk_towards_the_identity() -> None:
    x = rows(20, 3).double() * torch.tensor([1.0, 2.0, 3.0])
    mean, precision = fit_gaussian(x)
    centred = (x - x.mean(0)).numpy()
    n, q = centred.shape
    sample = sum(np.outer(r, r) for r in centred) / n
    target = np.trace(sample) / q * np.eye(q)
    # Ledoit and Wolf (2004), lemma 3.2 to 3.4: b² over d².
    d2 = ((sample - target) ** 2).sum() / q
    b2 = sum(((np.outer(r, r) - sample) ** 2).sum() / q for r in centred) / n**2
    share = min(b2, d2) / d2
    assert 0.01 < share < 0.99
    assert torch.allclose(mean, x.mean(0))
    wanted = np.linalg.inv((1 - share) * sample + share * target)
    assert np.allclose(precision.numpy(), wanted, rtol=1e-6)


def test_reference_of_fewer_rows_than_dimensions_and_of_equal_rows() -> None:
    detector = DriftDetector(window=4, reference=32)
    assert not detector.update(rows(200, 64)[:40])
    assert detector.ready and bool(detector.threshold.isfinite().all())
    constant = DriftDetector(window=4, reference=32)
    assert not constant.update(torch.ones(100, 3))
    assert constant.update(torch.ones(4, 3) * 2)


def test_thresholds_keep_the_rate_of_a_naive_simulation() -> None:
    z = np.random.default_rng(0).normal(size=(500, 3))
    limits = thresholds(z, 0.0, 3e-3, 0.5, np.random.default_rng(1))
    rng, alarms, total = np.random.default_rng(2), 0, 0
    for _ in range(400):  # paths of the first sum alone, which has a third of the rate
        s = 0.0
        for _ in range(100):
            total += 1
            s = max(0.0, s + z[rng.integers(0, 500), 0] - 0.5)
            if s > limits[0]:
                alarms += 1
                break
    assert 0.6e-3 < alarms / total < 1.5e-3
    strict = thresholds(z, 0.0, 3e-4, 0.5, np.random.default_rng(1))
    unsure = thresholds(z, 0.2, 3e-3, 0.5, np.random.default_rng(1))
    assert (strict > limits).all() and (unsure > limits).all()


@pytest.mark.parametrize(("width", "classes"), [(8, 0), (32, 10)])
def test_false_alarms_without_drift_are_near_the_rate(width: int, classes: int) -> None:
    found = []
    for seed in range(20):
        detector = DriftDetector(window=16, reference=320, false_alarms=5e-3, seed=seed)
        stream = rows(320 + 16 * 100, width, seed, classes)
        found.append(judge(detector, stream.split(16), []))
    windows = sum(one["windows"] for one in found)
    false = sum(one["false_alarms"] for one in found)
    assert windows > 1400
    # 5 per 1,000 are asked for; 20 references leave much to chance.
    assert 1 <= 1000 * false / windows <= 10


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda x: x + 1.0, 1),  # the mean moves far
        (lambda x: x + 0.25, 12),  # and a little: about one deviation of a window's mean
        (lambda x: x * 1.6, 2),  # only the spread grows
        (lambda x: x * 0.6, 3),  # or shrinks
    ],
)
def test_drift_is_found_soon(change: Any, within: int) -> None:
    for seed in range(5):
        x = rows(512 + 32 * 40, 8, seed)
        x[512 + 32 * 10 :] = change(x[512 + 32 * 10 :])
        found = judge(DriftDetector(seed=seed), x.split(32), [26])
        assert found["missed"] == 0 and found["delays"][0] <= within, found
        assert found["false_alarms"] <= 1


def test_gradual_drift_is_found_and_a_settled_detector_alarms_once() -> None:
    x = rows(512 + 32 * 60, 8, 3)
    share = torch.linspace(0, 1, 8).repeat_interleave(32)
    moved = torch.rand(256, generator=torch.Generator().manual_seed(0)) < share
    x[832 : 832 + 256][moved] += 2.0
    x[832 + 256 :] += 2.0
    found = judge(DriftDetector(settle=256), x.split(32), [[26, 34]])
    assert found["missed"] == 0 and found["false_alarms"] == 0 and found["delay"] <= 5


def test_how_rows_are_divided_changes_nothing() -> None:
    x = rows(1400)
    x[900:] += 1
    states = []
    for size in (1, 7, 32, 1400):
        detector = DriftDetector(window=16, reference=256, settle=10)
        told = [detector.update(part) for part in x.split(size)]
        states.append((detector.windows, detector.alarms, detector.sums.tolist()))
        assert sum(told) <= detector.alarms and any(told)
    assert len({str(state) for state in states}) == 1 and states[0][1] >= 1


def test_same_seed_same_thresholds_and_global_state_left_alone() -> None:
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    limits = []
    for seed in (0, 0, 1):
        detector = DriftDetector(seed=seed)
        detector.update(rows(512))
        limits.append(detector.threshold.tolist())
    assert limits[0] == limits[1] != limits[2]
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize("at", [0, 100, 300, 800])
def test_a_restored_detector_goes_on_as_if_it_had_not_stopped(at: int) -> None:
    x = rows(1600)
    x[700:] += 2
    whole, first = (DriftDetector(window=16, reference=256, settle=100) for _ in range(2))
    told = [whole.update(part) for part in x.split(20)]
    began = [first.update(part) for part in x[:at].split(20)] if at else []
    second = DriftDetector(window=16, reference=256, settle=100)
    second.restore(first.layout())
    second.load_state_dict(first.state_dict())
    assert began + [second.update(part) for part in x[at:].split(20)] == told and any(told)
    assert second.layout() == whole.layout()


def test_rows_after_an_alarm_are_left_out_then_become_the_reference() -> None:
    x = rows(256 + 16 + 40 + 256)
    x[256:] += 9
    detector = DriftDetector(window=16, reference=256, settle=40)
    assert detector.update(x[:272]) and not detector.ready
    x[272:312] = 1e6  # a reference with these rows would be far off
    assert not detector.update(x[272:567]) and not detector.ready
    assert not detector.update(x[567:]) and detector.ready
    assert bool((detector.mean - x[312:].double().mean(0)).abs().max() < 0.5)


def test_reset() -> None:
    detector = DriftDetector(window=16, reference=256)
    detector.update(rows(300))
    detector.reset()
    assert not detector.ready and not detector.update(rows(255) + 9)
    detector.reset(rows(200, seed=1) + 5)
    assert detector.ready
    assert not detector.update(rows(160, seed=2) + 5) and detector.update(rows(32, seed=3))
    with pytest.raises(DataError, match="at least 128 finite rows"):
        detector.reset(rows(100))


def test_judge_counts_by_hand() -> None:
    class Fixed(DriftDetector):
        """Alarms in given chunks."""

        def update(self, query: torch.Tensor) -> bool:
            self.windows += 1
            return self.windows - 1 in {2, 5, 6, 11}

    found = judge(Fixed(), rows(20).split(1), [4, [8, 10], 15])
    assert found["alarms"] == [2, 5, 6, 11] and found["delays"] == [1, 3, None]
    assert (found["false_alarms"], found["missed"], found["delay"]) == (2, 1, 2.0)
    assert found["windows"] == 20 and found["false_alarms_per_1000"] == 100.0
    nothing = judge(DriftDetector(), rows(20).split(1), [])
    assert nothing["delay"] is None and nothing["false_alarms_per_1000"] is None
    with pytest.raises(DataError, match="boundaries in order"):
        judge(Fixed(), [], [5, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window from 2"),
        ({"reference": 100}, "at least 8 windows"),
        ({"settle": -1}, "settle from 0"),
        ({"false_alarms": 0.0}, "per window"),
        ({"slack": -1.0}, "slack from 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DriftDetector(**options)


def test_rows_that_do_not_fit() -> None:
    detector = DriftDetector()
    detector.update(rows(10))
    with pytest.raises(DataError, match="finite rows of 8 numbers"):
        detector.update(rows(10, 9))
    with pytest.raises(DataError, match="1 numbers not finite"):
        detector.update(torch.tensor([[float("nan")] + [0.0] * 7]))
    assert not detector.update(torch.zeros(0, 8))


def test_the_table_of_the_docs_is_what_was_measured(root: Path) -> None:
    results = json.loads((root / "benchmarks" / "results" / "drift.json").read_text())
    page = (root / "docs" / "pages" / "streams.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (no change|turned by .*?|four domains.*?) \|(.*)\|$", page, re.MULTILINE
    )
    assert len(rows) == len(results["rows"]) == 17
    for name, cells in rows:
        row = results["rows"][name]
        delay = "" if row["delay_mean"] is None else f"{row['delay_mean']} ({row['delay_max']})"
        changes = f"{row['missed']} of {row['changes']}" if row["changes"] else ""
        wanted = [str(row["windows"]), str(row["false_alarms_per_1000"]), changes, delay]
        assert [cell.strip() for cell in cells.split("|")] == wanted, name
