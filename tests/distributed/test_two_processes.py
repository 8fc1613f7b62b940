"""Two real processes learn what one learns, method by method, and leave the same files."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cpool.learner import Learner
from tests import tiny
from tests.common.rows import ROWS
from tests.common.tasks import stream
from tests.distributed.group import launched
from tests.distributed.stop_and_go import learner
from tests.distributed.worker import learned, state_of

# One row a method, and those whose passes are of another kind.
ONE_EACH = list({ROWS[row]().name: row for row in reversed(ROWS)}.values())
CHOSEN = sorted({*ONE_EACH, "prompt_ridge", "prefix_tuning_through", "mvp_balanced", "ewc_online"})


def difference(states: list[dict[str, torch.Tensor]], expected: dict[str, torch.Tensor]) -> str:
    """Say which tensor differs between two processes, or from those of one; "" for none."""
    if states[0].keys() != expected.keys():
        return f"other tensors: {states[0].keys() ^ expected.keys()}"
    for name, tensor in expected.items():
        first, second = (torch.nan_to_num(state[name].double()) for state in states)
        if not torch.equal(first, second):
            return f"{name} differs between the processes"
        truth = torch.nan_to_num(tensor.double())
        size = float(truth.abs().max()) if truth.numel() else 0.0
        if first.shape != truth.shape or not torch.allclose(first, truth, rtol=0, atol=2e-5 * size):
            return f"{name} is another one than in one process"
    return ""


@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_learns(tmp_path):
    """At the same global batch; shares of 3 and 4 samples, last batches of 2 and 3, or 1."""
    launched("tests.distributed.worker", str(tmp_path), *CHOSEN, seconds=600)
    found = {}
    for row in CHOSEN:
        states = [load_file(tmp_path / f"{row}.{rank}.safetensors") for rank in (0, 1)]
        found[row] = difference(states, state_of(*learned(row)))
    assert not {row: said for row, said in found.items() if said}


@pytest.mark.timeout(600)
def test_files_resuming_and_other_data(tmp_path):
    said = launched("tests.distributed.stop_and_go", str(tmp_path))
    differ = {
        "data": "training data of 'task 0'",
        "seeds": "seed and training settings",
        "settings": "seed and training settings",
        "draws": "new model, built within one seed,",
        **dict.fromkeys(("shards", "lengths", "nothing", "tests", "queries"), "inputs"),
    }
    for rank in (0, 1):
        for what, name in differ.items():
            assert f"rank {rank}, {what}: expected the same {name} in all 2 processes" in said
        if sys.platform == "linux":
            (left,) = re.findall(rf"rank {rank} ends with the threads (.*)", said)
            assert "python" in left and "gloo" not in left, left
    one = learner()
    matrix = one.run(stream("vit"))
    found = np.loadtxt(tmp_path / "matrix.txt")
    assert np.array_equal(found, matrix.values, equal_nan=True)
    for folder in ("whole", "stopped"):
        loaded = Learner.load(tmp_path / folder, tiny.backbone("vit"), device="cpu", quiet=True)
        assert loaded.done == one.done
        x = stream("vit")[1].test.x
        assert np.allclose(loaded.predict_proba(x), one.predict_proba(x), atol=1e-4)
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert not [name for name in names if "tmp" in name]


RUN = """
seeds = [0]
backbone = { name = "embedded" }
stream = { name = "split_digits", tasks = 2, train_per_class = 6, test_per_class = 6 }
train = { epochs = 1, batch_size = 16 }

[[method]]
name = "l2p"
slots_per_task = 2
top_k = 2

[[method]]
name = "ranpac"
projection = 50
"""


@pytest.mark.timeout(600)
def test_cpool_run_is_one_run_of_all_processes_that_names_no_device(tmp_path):
    """Each for itself would be two runs, of which the folder refuses one."""
    file = tmp_path / "two.toml"
    file.write_text(RUN, encoding="utf-8")
    options = ["run", str(file), "--out"]
    said = launched("cpool", *options, str(tmp_path / "two"))
    assert said.count("seed 0  accuracy") == 2  # a line a method: one process speaks
    done = subprocess.run([sys.executable, "-m", "cpool", *options, str(tmp_path / "one")])
    assert done.returncode == 0
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text("utf-8"))["runs"]
        for name in ("one", "two")
    )
    assert [run["accuracy_matrix"] for run in one] == [run["accuracy_matrix"] for run in two]
