"""The experiments of the papers: each file is read, resolved and starts."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from cpool.experiment.dry_run import rehearsed
from cpool.experiment.folder import RunFolder
from cpool.experiment.parts import open_stream
from cpool.experiment.reading import read_experiment
from cpool.experiment.runner import Runner

ROOT = Path(__file__).resolve().parents[2]

PAPERS = {path.stem: path for path in sorted((ROOT / "benchmarks" / "papers").glob("*.toml"))}
# Tasks, classes and scenario of the stand-ins, which are those of the papers.
FORMS = {
    "cifar100": (10, 100, "class"),
    "core50": (8, 50, "domain"),
    "domainnet": (6, 345, "domain"),
    "five-datasets": (5, 50, "class"),
    "imagenet-r": (10, 200, "class"),
    "text-15": (15, 60, "task"),
    "text-4": (4, 33, "task"),
}
# Fewer tasks and classes for the tests alone; the forms are checked in full.
SHORTER = {
    "cifar100": ["stream.tasks=2", "stream.path=data/eight"],
    "core50": ["stream.tasks=2", "stream.path=data/four"],
    "domainnet": ["stream.tasks=2", "stream.path=data/four"],
    "text-15": ['stream.tasks=[["entailment", "neutral stance"], ["cb yes", "cb no"]]'],
    "text-4": ['stream.tasks=[["World", "Sports"], ["Film", "Written Work"]]'],
    "imagenet-r": ["stream.tasks=2", "stream.path=data/eight"],
}


def test_all_papers_are_here():
    assert set(PAPERS) == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_a_file_resolves_to_itself(name, tmp_path):
    read = read_experiment(PAPERS[name])
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(read.resolved()), encoding="utf-8")
    assert read_experiment(again).resolved() == read.resolved()
    assert len(read.seeds) == 3
    assert {"ncm", "linear_head"} <= {entry.method.name for entry in read.methods}
    assert any(entry.method.joint for entry in read.methods)
    assert "Published, not measured" in PAPERS[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMS)
def test_the_stand_ins_have_the_form_of_the_data(name, tmp_path):
    dry = rehearsed(read_experiment(PAPERS[name]), tmp_path)
    stream = open_stream(dry, 0)
    assert (len(stream), len(stream.class_names), stream.scenario) == FORMS[name]
    given = tomllib.loads(PAPERS[name].read_text(encoding="utf-8"))["stream"]
    if isinstance(given.get("tasks"), list):
        found = [[stream.class_names[c] for c in task.classes] for task in stream]
        assert found == given["tasks"]
    if "domains" in given:
        assert [task.name for task in stream] == given["domains"]
    sizes = [len(task.train) for task in stream]
    for entry in dry.methods:
        rows = sum(sizes) if entry.method.joint else max(sizes)
        assert entry.train.epochs == 1
        assert 1 <= -(-rows // entry.train.batch_size) <= 2


@pytest.mark.parametrize("name", FORMS)
def test_every_file_starts(name, tmp_path):
    experiment = read_experiment(PAPERS[name], SHORTER.get(name, []))
    dry = rehearsed(experiment, tmp_path / "made")
    runner = Runner(dry, RunFolder(tmp_path / "out"), device="cpu")
    results = runner.run(lambda job, record: None)
    assert results["dry_run"] is True and results["complete"]
    assert [run["label"] for run in results["runs"]] == [e.label for e in experiment.methods]
    assert "random" in results["backbone"]["name"]
    assert results["stream"]["options"]["path"] == experiment.stream["path"]
