"""FolderLock: one run at a time writes to a folder, and a killed one leaves it free."""

import os
import signal
import subprocess
import sys

import pytest

from cpool.errors import ConfigError
from cpool.experiment.folder import RunFolder
from cpool.experiment.lock import FolderLock
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner

pytest.importorskip("fcntl", reason="locks are those of POSIX")

HOLDER = """
import sys, time
from pathlib import Path
from cpool.experiment.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.take()
print("taken", flush=True)
time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of `tmp_path / "out"`; it is gone when the test is."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = process.stdout.readline()
    assert line == "taken\n", process.stderr.read()
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_writes_nothing(holder, small, tmp_path):
    out = tmp_path / "out"
    runner = Runner(read_experiment(small), RunFolder(out))
    message = rf"no other run is writing, .*out; got a run in it, process {holder.pid}\. Wait"
    with pytest.raises(ConfigError, match=message):
        runner.run(lambda job, record: None)
    assert [path.name for path in out.iterdir()] == [".running"]
    assert (out / ".running").read_text(encoding="utf-8") == f"{holder.pid}\n"
    with pytest.raises(ConfigError, match=message):  # the one refused took nothing with it
        FolderLock(out).take()
    FolderLock(tmp_path / "other").take()


def test_the_lock_is_gone_when_its_process_was_killed(holder, tmp_path):
    lock = FolderLock(tmp_path / "out")
    with pytest.raises(ConfigError, match=f"process {holder.pid}"):
        lock.take()
    holder.send_signal(signal.SIGKILL)
    assert holder.wait(30) == -signal.SIGKILL
    assert lock.path.is_file(), "the file stays, and holds nobody"
    lock.take()
    assert lock.path.read_text(encoding="utf-8") == f"{os.getpid()}\n"
    lock.release()
    assert not lock.path.exists()


def test_who_releases_a_folder_lets_others_have_it(tmp_path):
    first, second = FolderLock(tmp_path / "out"), FolderLock(tmp_path / "out")
    first.take()
    first.take()  # it has it
    with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        second.take()
    second.release()  # it has nothing to release
    assert first.path.is_file()
    first.release()
    second.take()
    with pytest.raises(ConfigError, match="no other run is writing"):
        first.take()
    del second  # forgotten, and not released
    first.take()
    first.release()
