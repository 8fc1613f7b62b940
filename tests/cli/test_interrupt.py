"""Killed, stopped and resumed, with real processes and real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.experiment.tiny import write_experiment

LONG = """
seeds = [0, 1]
[backbone]
name = "{backbone}"
[stream]
name = "split_digits"
tasks = 5
[[method]]
name = "ncm"
[[method]]
name = "l2p"
pool_size = 4
top_k = 2
length = 2
train.epochs = 3
"""


@pytest.fixture
def start(tmp_path, tiny_backbone):
    """Start `cpool run` in a process of its own; it is gone when the test is."""
    file = write_experiment(tmp_path / "long.toml", tiny_backbone, LONG)
    started = []

    def start(*words: str, pause: str | None = None) -> subprocess.Popen:
        # The pause makes the moment of the signal sure: the process waits in the middle of a task.
        code = "import cpool.cli\n"
        if pause is not None:
            code += (
                "import time, cpool.learner as l\n"
                "before = l.Learner.fit_task\n"
                "def fit_task(self, task, name=None):\n"
                f"    if (self.model.method.name, self.seed, task.index) == {pause}:\n"
                "        print('waiting', flush=True); time.sleep(120)\n"
                "    before(self, task, name)\n"
                "l.Learner.fit_task = fit_task\n"
            )
        code += f"import sys; sys.argv = {['cpool', 'run', str(file), *words]!r}\ncpool.cli.main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until_waiting(process: subprocess.Popen) -> str:
    seen, end = "", time.monotonic() + 120
    while time.monotonic() < end:
        line = process.stdout.readline()
        seen += line
        if line.startswith("waiting"):
            return seen
        assert line or process.poll() is None, seen + process.stderr.read()
    raise AssertionError(seen)


def matrices(folder: Path) -> dict:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {(r["label"], r["seed"]): r["accuracy_matrix"] for r in results["runs"]}


def test_a_killed_run_goes_on_and_ends_with_the_same_matrices(start, cpool, tmp_path):
    process = start(pause="('l2p', 1, 2)")
    until_waiting(process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    folder = tmp_path / "runs" / "long"
    assert set(matrices(folder)) == {("ncm", 0), ("l2p", 0), ("ncm", 1)}
    manifest = folder / "checkpoints" / "l2p" / "seed1" / "manifest.json"
    assert len(json.loads(manifest.read_text(encoding="utf-8"))["learner"]["done"]) == 2
    for out in ("runs/long", "whole"):
        done = cpool("run", tmp_path / "long.toml", "--out", tmp_path / out, "--resume", "--quiet")
        assert done.exit_code == 0, done.output
    assert matrices(folder) == matrices(tmp_path / "whole")
    assert len(matrices(folder)) == 4


def test_a_terminated_run_says_how_to_go_on(start, tmp_path):
    words = ["--out", "my out", "--seeds", "0", "--set", "method.l2p.train.lr=0.1"]
    process = start(*words, pause="('l2p', 0, 1)")
    until_waiting(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert "1 of 2 runs are finished" in errors
    expected = f"cpool run {tmp_path}/long.toml --out 'my out' --seeds 0"
    assert f"{expected} --set method.l2p.train.lr=0.1 --resume\n" in errors
    assert set(matrices(tmp_path / "my out")) == {("ncm", 0)}


def test_a_stopped_search_goes_on_with_the_trial_it_was_in(start, cpool, tmp_path):
    file = tmp_path / "long.toml"
    grid = '[search]\nbudget = 3\n[method.search]\n"train.lr" = [0.1, 0.01, 0.001]\n'
    file.write_text(file.read_text(encoding="utf-8") + grid, encoding="utf-8")
    words = ["--seeds", "0", "--set", "method.l2p.train.epochs=1"]
    code = "('l2p', 0, 1) and self.train.lr == 0.01"
    process = start("--out", "out", *words, pause=code)
    until_waiting(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "1 of 3 trials are finished" in errors
    folder = tmp_path / "out"
    assert len(json.loads((folder / "search.json").read_text(encoding="utf-8"))["trials"]) == 1
    assert not (folder / "checkpoints").exists()
    for out in (folder, tmp_path / "whole"):
        assert cpool("run", file, "--out", out, *words, "--resume", "--quiet").exit_code == 0
    scores = [
        [t["accuracy"] for t in json.loads((out / "search.json").read_text("utf-8"))["trials"]]
        for out in (folder, tmp_path / "whole")
    ]
    assert len(scores[0]) == 3
    assert scores[0] == scores[1]
    assert matrices(folder) == matrices(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
def test_ctrl_c_on_a_terminal_says_how_to_go_on_and_shows_the_cursor_again(tmp_path, tiny_backbone):
    import pty

    file = write_experiment(tmp_path / "long.toml", tiny_backbone, LONG)
    child, terminal = pty.fork()
    if child == 0:
        # Where the tests are started in the background of a shell, they and theirs ignore it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(tmp_path)
        words = ["-m", "cpool", "run", str(file), "--set", "method.l2p.train.epochs=1000"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
        os.execve(sys.executable, [sys.executable, *words], environment)
    seen, end = "", time.monotonic() + 120
    try:
        while "task 0" not in seen and time.monotonic() < end:
            seen += os.read(terminal, 65536).decode(errors="replace")
        assert "[1/4] ncm" in seen
        os.write(terminal, b"\x03")
        while True:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # Linux: the other side has closed
                break
            if not piece:
                break
            seen += piece.decode(errors="replace")
        _, status = os.waitpid(child, 0)
        child = 0
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, seen[-2000:]
    assert "Go on with:" in seen
    assert "Traceback" not in seen
    assert "\x1b[?25h" in seen  # the cursor is shown again
