"""The page of benchmarks says what the committed results say, and its numbers are right."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tables
from benchmarks.limits import few_pairs
from benchmarks.merge_seeds import merge
from benchmarks.stream_table import Document, choices, prediction_ratio, table, training_ratio
from cpool.meter import COSTS
from cpool.methods import METHODS
from cpool.report.significance import ALPHA, holm, paired_test

from .conftest import make_results


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    documents = tables.read_all()
    assert {"clinc150", "quickstart"} <= {document.name for document in documents}
    for path, content in tables.outputs(documents).items():
        assert path.read_text(encoding="utf-8") == content, (
            f"{path.name} is out of date: python -m benchmarks.tables"
        )


def rows(lines: list[str]) -> dict[str, list[str]]:
    """Return the cells of every row, by the name in it."""
    cells = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {line[1]: line for line in cells[2:]}


@pytest.fixture
def document() -> Document:
    results = make_results()
    for run in results["runs"]:
        run["frozen_seconds_per_sample"] = 0.001 * (1 + run["seed"])
    environment = {"cpu": "a processor", "threads": 1, "seconds": 600.0}
    return Document("digits", results, environment)


def test_ratios_are_to_the_frozen_pass_of_the_same_process(document: Document) -> None:
    run = next(r for r in document.results["runs"] if (r["label"], r["seed"]) == ("L2P", 1))
    # 41 s · 1.02 over 1,285 samples of 2 ms; 0.19 s over 200 test samples of 2 ms
    samples = 260 + 255 + 250 + 262 + 258
    assert training_ratio(run, samples) == pytest.approx(41 * 1.02 / (0.002 * samples))
    assert prediction_ratio(run) == pytest.approx(0.19 / (0.002 * (36 + 38 + 40 + 42 + 44)))
    seeds = [41 * (1 + 0.02 * s) / (0.001 * (1 + s) * samples) for s in range(3)]
    assert rows(table(document))["L2P"][10] == f"{sum(seeds) / 3:.1f}"
    assert training_ratio({"train_seconds": 1.0}, samples) is None
    assert prediction_ratio({"predict_seconds": None, "frozen_seconds_per_sample": 1.0}) is None


def test_ranks_and_marks(document: Document) -> None:
    found = rows(table(document))
    means = document.accuracies()
    order = sorted(means, key=lambda label: -means[label])
    assert [found[label][0] for label in order] == [str(k + 1) for k in range(7)]
    assert found[order[0]][3] == "★"
    assert found["Joint (upper bound)"][0] == "–"
    assert found["Joint (upper bound)"][3] == "–"
    behind = 100 * (means[order[-1]] - means[order[0]])
    assert found[order[-1]][3] == f"{behind:.2f}, p < 0.001".replace("-", "−")


def test_what_does_not_differ_is_marked(document: Document) -> None:
    for run in document.results["runs"]:
        if run["label"] == "RanPAC":
            twin = {**run, "label": "Twin", "average_accuracy": run["average_accuracy"] - 1e-6}
            document.results["runs"].append(twin)
    assert rows(table(document))["Twin"][3] == "≈ 0.00, p = 1.000"


def test_what_was_not_run_stands_in_the_table_with_its_reason(document: Document) -> None:
    document.results["not_run"] = {"fine_tune": "no weights"}
    lines = table(document)
    assert set(rows(lines)["fine_tune"]) == {"–", "fine_tune"}
    assert "– fine_tune: no weights" in lines


def test_reduced_sizes_searches_and_few_seeds_are_said(document: Document) -> None:
    results: Any = document.results
    results["stream"]["options"] = {"tasks": 5, "train_per_class": 20, "test_per_class": None}
    results["runs"] = [run for run in results["runs"] if run["seed"] == 0]
    results["search"] = {
        "budget": 4, "validation": 0.2, "seed": 0, "train_per_class": 5, "first_tasks": None,
        "train_samples": 50, "validation_samples": 260, "trials": 9, "seconds": 61.0,
    }  # fmt: skip
    text = "\n".join(table(document))
    assert "Reduced size: train_per_class = 20." in text
    assert "Only 1 seed." in text
    assert "at most 4 trials a method, 9 in all, 61 s, 260 validation samples" in text
    assert "trials saw 5 training samples a class." in text
    assert "10 min in all" in text


def test_epochs_and_trials_of_every_row_are_said(document: Document) -> None:
    results: Any = document.results
    for run in results["runs"]:
        if run["label"] == "L2P":
            run["train"] = {**run["train"], "epochs": 3}
            run["search"] = {"trials": 4}
        if run["label"] == "PromptRidge":
            run["hyper_parameters"] = {"prompt": "random"}
        if run["label"] == "Linear head":
            run["hyper_parameters"] = {"gone": 1}  # of another version
            run["train"] = {**run["train"], "epochs": METHODS["linear_head"].train.epochs + 1}
    lines = table(document)
    found = rows(lines)
    assert METHODS["l2p"].train.epochs == METHODS["dualprompt"].train.epochs == 5
    assert found["L2P"][6:8] == ["3 of 5", "4"]
    assert found["DualPrompt"][6:8] == ["5", "–"]
    assert found["CODA-Prompt"][6] == "5"  # a name that the package does not know
    assert found["NCM"][6] == found["RanPAC"][6] == found["PromptRidge"][6] == "–"
    assert found["Linear head"][6] == str(METHODS["linear_head"].train.epochs + 1)
    text = "\n".join(lines)
    assert "1 of 5 rows that train had fewer epochs than the settings of their papers" in text
    results["runs"] = [run for run in results["runs"] if run["label"] != "L2P"]
    assert "fewer epochs" not in "\n".join(table(document))


def test_a_choice_that_makes_a_row_another_method_is_said() -> None:
    trained = {"label": "prompt_ridge", "method": "prompt_ridge", "seed": 0}
    trained["hyper_parameters"] = {"prompt": "trained", "length": 3, "ridge": 0.5, "gone": True}
    named = {**trained, "label": "prompt_ridge trained"}
    usual = {"label": "ncm", "method": "ncm", "seed": 0, "hyper_parameters": {}}
    assert choices([named, usual]) == ""
    assert choices([trained, named, usual]) == "`prompt_ridge` with prompt = trained"


def test_a_table_without_a_search_says_so(document: Document) -> None:
    assert any(line.startswith("No search: settings are those") for line in table(document))
    results: Any = document.results
    results["search"] = {
        "budget": 4, "validation": 0.2, "seed": 0, "train_per_class": None, "first_tasks": None,
        "train_samples": 50, "validation_samples": 260, "trials": 9, "seconds": 61.0,
    }  # fmt: skip
    assert not any("No search" in line for line in table(document))


def test_upper_bounds_that_rows_are_ahead_of_are_named(document: Document) -> None:
    assert not any("upper bound, but" in line for line in table(document))
    for run in document.results["runs"]:
        if run["label"] == "Joint":
            run["average_accuracy"], run["train"] = 0.5, {"epochs": 3}
    means = document.accuracies()
    ahead = sum(mean > 0.5 for mean in means.values())
    (said,) = [line for line in table(document) if "upper bound, but" in line]
    assert f"`Joint` (50.00 after 3 epochs) is behind {ahead} of {len(means)} rows." in said
    assert ahead


@pytest.mark.parametrize(
    ("pairs", "comparisons", "least"),
    [
        (3, 18, "0.25"),
        (5, 1, "0.062"),
        (6, 1, None),
        (6, 2, "0.031"),
        (12, 10, None),
        (17, 90, None),
    ],
)
def test_a_test_that_can_part_nothing_says_so(pairs, comparisons, least) -> None:
    said = few_pairs(pairs, comparisons)
    assert (said is None) is (least is None)
    if said is not None:
        assert f"{pairs} pairs here: the test cannot give less than p = {least}," in said
        ones = [paired_test(np.ones(pairs))[1]] * comparisons  # as far apart as can be
        assert min(holm(ones)) >= ALPHA


def test_a_table_of_one_task_says_that_its_test_parts_nothing(document: Document) -> None:
    assert not any("pairs here" in line for line in table(document))
    for run in document.results["runs"]:
        run["accuracy_matrix"] = [[run["accuracy_matrix"][-1][0]]]
        run["test_sizes"] = run["test_sizes"][:1]
    assert any(line.startswith("Seeds × tasks are 3 pairs here") for line in table(document))


def test_costs_of_an_earlier_version_are_told_apart(document: Document) -> None:
    note = "Costs measured by an earlier version: prediction found its images prepared"
    assert any(line.startswith(note) for line in table(document))
    for run in document.results["runs"]:
        run["costs"] = COSTS
    assert not any(line.startswith(note) for line in table(document))


def test_the_page_says_what_a_reader_must_know_of_its_numbers() -> None:
    head = " ".join(tables.HEAD.split())
    for words in (
        "are not independent",
        "That pass prepares its inputs",
        "one that reads none (`oneprompt`, `fine_tune`) nothing",
    ):
        assert words in head


def other(document: Document, name: str, **changes: Any) -> Document:
    results = json.loads(json.dumps(document.results))
    results["stream"]["fingerprint"] = name
    results |= changes
    return Document(name, results, {})


def test_the_diagram_counts_each_stream_once(document: Document) -> None:
    small = other(document, "d" * 64)
    small = Document("small", {**small.results, "runs": small.results["runs"][:6]}, {})
    second = other(document, "omniglot50")
    ranking = tables.ranked([document, small, second])
    assert ranking is not None
    assert ranking.streams == ("digits", "omniglot50")
    assert len(ranking.methods) == 7
    for left_out in ({"evaluated_on": "validation"}, {"complete": False}):
        ranking = tables.ranked([document, second, other(document, "banking77", **left_out)])
        assert ranking is not None
        assert ranking.streams == ("digits", "omniglot50")
    assert tables.ranked([]) is None


def test_the_page_of_several_streams_has_ranks_and_the_diagram(document: Document) -> None:
    second = other(document, "omniglot50")
    for run in second.results["runs"]:
        if run["label"] == "NCM":
            run["label"] = "NCM 2"
    text = tables.page([document, second])
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "digits", "omniglot50", "Ranks over streams",
    ]  # fmt: skip
    assert '--8<-- "ranks.svg"' in text
    lines = text[text.index("## Ranks") :].splitlines()
    ranks = rows([f"| {line}" for line in lines if line.startswith("|")])
    assert ranks["RanPAC"][2:] == ["1", "1", "1.00"]
    assert ranks["NCM 2"][2] == ranks["NCM 2"][4] == "–"
    assert "the 6 that all 2 streams have" in text
    assert f"of {', '.join(tables.MAIN)}; here digits, omniglot50." in text


def test_seeds_that_ran_apart_keep_their_own_pace(document: Document, tmp_path: Path) -> None:
    for seed in range(3):
        results = json.loads(json.dumps(document.results)) | {"features_seconds": 1.0}
        results["runs"] = [run for run in results["runs"] if run["seed"] == seed]
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        config = f'seeds = [{seed}]\nname = "digits"\nstream = {{ name = "split_digits" }}\n'
        config += '[backbone]\nname = "embedded"\n[[method]]\nname = "ncm"\n'
        if seed:  # an older version wrote its file before an option was there
            config += "normalize = false\n"
        (folder / "config.toml").write_text(config, encoding="utf-8")
    merged = merge([tmp_path / str(seed) for seed in range(3)])
    first = sorted(document.results["runs"], key=lambda run: run["seed"])
    assert merged["runs"] == first
    assert merged["features_seconds"] == 3.0
    apart = Document("digits", merged, document.environment)
    assert table(apart) == table(document)
