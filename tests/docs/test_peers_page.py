"""The page about other libraries says what was measured, and judges its targets rightly."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.peers import driver, environment, measured, page
from benchmarks.peers.counted import counted
from benchmarks.peers.settings import COMPARISONS, TARGETS, Peer, Target


def run_of(seed: int, seconds: float, *, accuracy: float = 0.8, model: int = 100) -> dict[str, Any]:
    times = dict.fromkeys((*page.DIVIDED, "set_up"), seconds)
    return {
        "seed": seed,
        "average_accuracy": accuracy,
        "forgetting": 0.1,
        "cpu_seconds": times,
        "seconds": {key: 7.0 for key in times},
        "memory": {"libraries": 10, "peak": 30, "model": model},
        "trained_parameters": 40,
    }


def compared(ours: list[Any], theirs: list[Any], error: str | None = None) -> dict[str, Any]:
    """Return the results of two peers, and of one that failed where an error is given."""
    peers = {
        "cpool": {"error": None, "versions": {"torch": "2.0"}, "runs": ours},
        "Avalanche": {"error": None, "versions": {"avalanche-lib": "0.6.0"}, "runs": theirs},
    }
    if error:
        peers["CapyMOA"] = {"error": error, "versions": {}, "runs": []}
    found = {"title": "L2P", "base": "Avalanche", "accuracy": True, "job": COMPARISONS[0].job}
    return {**found, "peers": peers}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.content(), (
        "out of date: python -m benchmarks.peers --page"
    )


def test_the_committed_runs_are_of_one_model_and_of_the_same_rounds() -> None:
    comparisons = json.loads(page.RESULTS.read_text("utf-8"))["comparisons"]
    assert set(comparisons) == {comparison.name for comparison in COMPARISONS}
    for comparison in COMPARISONS:
        found = comparisons[comparison.name]
        assert found["job"] == comparison.job, "measured with other settings: measure again"
        assert list(found["peers"]) == [peer.name for peer in comparison.peers]
        seeds = {run["seed"] for run in found["peers"][comparison.base]["runs"]}
        assert len(seeds) >= comparison.rounds >= 3
        for peer in found["peers"].values():
            assert peer["error"] or {run["seed"] for run in peer["runs"]} == seeds
            far = [run.get("feature_error", 0.0) for run in peer["runs"]]
            assert all(value <= measured.SAME for value in far)


def test_ratios_are_taken_round_by_round() -> None:
    # 3 s of 6 s, 4 s of 10 s, 5 s of 5 s; the order of the runs says nothing
    ours = [run_of(2, 5.0), run_of(0, 3.0), run_of(1, 4.0)]
    theirs = [run_of(0, 6.0), run_of(1, 10.0), run_of(2, 5.0)]
    found = compared(ours, theirs)
    assert page.ratios(found, "cpool", "whole") == [2.0, 2.5, 1.0]
    assert page.ratios(found, "Avalanche", "whole") == [1.0, 1.0, 1.0]
    row = cells(page.times(found)[2])
    assert row == ["cpool", "80.0 ± 0.0", "10.0 ± 0.0", *["2.00 × (1.00–2.50)"] * 4, "4.00"]


@pytest.mark.parametrize(
    ("what", "bound", "above", "ours", "met"),
    [
        ("whole", 1.5, True, run_of(0, 4.0), "yes"),  # 6 / 4
        ("whole", 1.5, True, run_of(0, 4.1), "**no**"),
        ("model", 0.5, False, run_of(0, 1.0, model=50), "yes"),
        ("model", 0.5, False, run_of(0, 1.0, model=51), "**no**"),
        ("accuracy", 0.0, True, run_of(0, 1.0, accuracy=0.8), "yes"),
        ("accuracy", 0.0, True, run_of(0, 1.0, accuracy=0.79), "**no**"),
    ],
)
def test_targets(what, bound, above, ours, met) -> None:
    found = compared([ours], [run_of(0, 6.0)])
    row = page.judged(Target("digits", what, "aim", bound, above), {"digits": found})
    assert cells(row)[2] == met
    assert page.judged(Target("elsewhere", what, "aim", bound, above), {"digits": found}) is None


def test_a_target_may_compare_with_another_peer_than_the_base() -> None:
    found = compared([run_of(0, 1.0, accuracy=0.8)], [run_of(0, 1.0, accuracy=0.9)])
    target = Target("digits", "accuracy", "aim", 0.0, True, over="other")
    assert page.judged(target, {"digits": found}) is None  # not measured
    other = {"error": None, "versions": {}, "runs": [run_of(0, 1.0, accuracy=0.75)]}
    found["peers"]["other"] = other
    assert cells(page.judged(target, {"digits": found})) == ["aim", "5.0", "yes"]


def test_tokens_are_counted_as_a_loop_counts_them() -> None:
    job = {"tasks": 3, "epochs": 2, "train_per_class": 5, "test_per_class": 4}
    job = {**job, "top_k": 2, "length": 3}
    query, prompted = 10, 16
    work = {False: {"train": 0, "evaluate": 0}, True: {"train": 0, "evaluate": 0}}
    for cached, sums in work.items():
        for task in range(3):
            for epoch in range(2):
                sums["train"] += 5 * ((not cached or epoch == 0) * query + 2 * prompted)
            for seen in range(task + 1):
                sums["evaluate"] += 4 * ((not cached or seen == task) * query + prompted)
    found = counted(job, patches=9)
    for name in ("train", "evaluate"):
        assert found[name] == pytest.approx(work[False][name] / work[True][name])
    whole = [sum(sums.values()) for sums in (work[False], work[True])]
    assert found["whole"] == pytest.approx(whole[0] / whole[1])


def test_every_target_is_judged_on_the_page() -> None:
    said = page.PAGE.read_text(encoding="utf-8")
    for target in TARGETS:
        assert f"| {target.words} | " in said


def test_a_peer_that_did_not_run_is_named_with_its_error() -> None:
    found = compared([run_of(0, 1.0)], [run_of(0, 2.0)], error="ImportError: no Java")
    said = page.content({"comparisons": {"digits": found}})
    assert "| CapyMOA | did not run |" in said
    assert "CapyMOA did not run: `ImportError: no Java`." in said
    assert "Versions: avalanche-lib 0.6.0, torch 2.0." in said


def test_accuracies_of_random_weights_are_not_shown() -> None:
    found = {**compared([run_of(0, 1.0)], [run_of(0, 2.0)]), "accuracy": False}
    assert cells(page.times(found)[2])[1:3] == ["–", "–"]


def here() -> environment.Environment:
    return environment.make(None, Path("unused"))


def test_a_process_that_fails_is_no_failure_of_the_benchmark(tmp_path) -> None:
    peer = Peer("none", "no_such_script", None, ())
    result, error = driver.measure(peer, here(), {"seed": 0}, tmp_path)
    assert result is None
    assert error is not None and "no_such_script" in error


def test_errors_name_no_folder() -> None:
    code = "raise SystemExit('ImportError: cannot load /somewhere/lib/libjvm.so now')"
    error = environment.run_quietly([sys.executable, "-c", code], 60)
    assert error == "ImportError: cannot load libjvm.so now"
    assert environment.run_quietly([sys.executable, "-c", ""], 60) is None


def test_versions_of_what_is_not_installed_are_unknown() -> None:
    peer = Peer("x", "x", None, ("torch", "no-such-distribution"))
    found = driver.installed(peer, here())
    assert found == {"torch": torch.__version__.split("+")[0], "no-such-distribution": None}


def test_other_weights_are_refused(tmp_path) -> None:
    wanted = np.ones((2, 3), np.float32)
    np.save(tmp_path / "features-0.npy", wanted)
    run = measured.Run({"folder": str(tmp_path), "seed": 0}, tmp_path / "out.json")
    assert run.check_features(torch.ones(2, 3) + 5e-5) == pytest.approx(5e-5, rel=0.01)
    for other in (torch.ones(2, 3) + 2e-4, torch.full((2, 3), torch.nan)):
        with pytest.raises(SystemExit, match="features differ"):
            run.check_features(other)


def test_what_a_run_writes(tmp_path) -> None:
    run = measured.Run({"folder": str(tmp_path), "seed": 0}, tmp_path / "out.json")
    for name in ("set_up", "train", "evaluate", "evaluate_afresh"):
        with run.time(name):
            sum(range(100_000))
    weight = torch.zeros(5)
    run.write(model=[weight, weight, torch.zeros(2, dtype=torch.int64)], trained=5)
    result = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert result["memory"]["model"] == 5 * 4 + 2 * 8  # each tensor once
    for times in (result["seconds"], result["cpu_seconds"]):
        parts = [times[name] for name in ("set_up", "train", "evaluate")]
        assert times["whole"] == pytest.approx(sum(parts))
        assert min(parts) > 0


def test_a_library_that_does_not_install_is_tried_again(tmp_path, monkeypatch) -> None:
    answers = ["ERROR: No matching distribution found", None]
    commands: list[list[str]] = []

    def create(place: Path, **options: Any) -> None:
        assert options == {"clear": True, "with_pip": True, "system_site_packages": False}
        folder = place / ("Scripts" if sys.platform == "win32" else "bin")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "python").touch()

    def run(command: list[str], longest: float) -> str | None:
        commands.append(command)
        return answers[len(commands) - 1]

    monkeypatch.setattr(environment.venv, "create", create)
    monkeypatch.setattr(environment, "run_quietly", run)
    made = [environment.make("avalanche", tmp_path) for _ in range(3)]
    assert [m.error for m in made] == [answers[0], None, None]
    assert len(commands) == 2  # what is there is used
    assert commands[0][0] == str(made[0].python)
    assert {"-c", str(page.ROOT / "constraints.txt"), "avalanche-lib==0.6.0"} <= set(commands[0])
