"""Studies: run by variation, resumed, drawn where the numbers are, and a page made of numbers."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import study
from benchmarks.study_axes import ticks_of
from benchmarks.study_file import METRICS, read_study
from benchmarks.study_page import found, page
from benchmarks.study_plot import COLOURS, plot_svg
from benchmarks.study_results import Table, panels_kept, points_of, settings_of, usage_entropy
from cpool.errors import CpoolError
from cpool.experiment.runner import Runner
from tests.experiment.tiny import write_backbone

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "benchmarks" / "studies").glob("*.toml"))
COMMITTED = {document["name"]: document for document in study.read_all()}
TEXT = """
[study]
title = "Slots & <more>"
question = "How many?"
x = "slots"
y = ["average_accuracy", "usage_entropy"]
[[panel]]
name = "two tasks"
[[panel]]
name = "one"
set = ["stream.tasks=1"]
[[variation]]
x = 2
set = ["method.l2p.pool_size=2"]
[[variation]]
x = 4
set = ["method.l2p.pool_size=4"]
[experiment]
seeds = [0, 1]
threads = 1
backbone = { name = "{backbone}" }
stream = { name = "split_digits", tasks = 2, train_per_class = 3, test_per_class = 4 }
train = { epochs = 1 }
[[experiment.method]]
name = "l2p"
top_k = 1
length = 1
[[experiment.method]]
name = "ncm"
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def write(tmp_path, backbone):
    def write(*changes: tuple[str, str]) -> Path:
        text = TEXT.replace("{backbone}", str(backbone))
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "slots.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def made(points: list[tuple[Any, ...]], **changes: Any) -> dict[str, Any]:
    keys = ("panel", "x", "series", "seed", "average_accuracy")
    return {
        "name": "made", "title": "A title", "question": "Why?", "x": "an x", "along": "variation",
        "y": ["average_accuracy"], "scale": "linear", "minus": None, "version": "1",
        "seeds": [0, 1, 2], "experiments": 2, "seconds": 90.0,
        "streams": {"": {"name": "s", "tasks": 2, "test_samples": 9, "backbone": "b"}},
        "environment": {"cpu": "a cpu", "threads": 1},
        "settings": {"panels": []},
        "points": [dict(zip(keys, point, strict=True)) for point in points], **changes,
    }  # fmt: skip


# Running


def test_a_study_runs_every_variation_in_every_panel_and_goes_on(write, tmp_path, monkeypatch):
    words = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    words += ["--assets", str(tmp_path)]
    file, done, real, stops = write(), [], Runner._one, [5]

    def one(self, job, stream, prepared):
        if len(done) in stops:
            raise KeyboardInterrupt
        done.append(job)
        return real(self, job, stream, prepared)

    monkeypatch.setattr(Runner, "_one", one)
    with pytest.raises(SystemExit, match="what is finished is kept"):
        study.main([str(file), *words])
    # What is finished is beside where the document will be.
    first = tmp_path / "results" / "slots" / "parts" / "0"
    assert len(json.loads((first / "results.json").read_text(encoding="utf-8"))["runs"]) == 4
    assert not (tmp_path / "results" / "slots.json").exists()
    stops[0] = 9  # in the second panel
    with pytest.raises(SystemExit, match="what is finished is kept"):
        study.main([str(file), *words])
    part = json.loads((tmp_path / "results" / "slots.json").read_text(encoding="utf-8"))
    assert {point["panel"] for point in part["points"]} == {"two tasks"}
    assert part["experiments"] == 2
    assert "Not run yet: one." in page([part])
    stops.clear()
    # On another machine only what is missing of the second panel is measured.
    had = len(done)
    assert sorted(p.name for p in (tmp_path / "results" / "slots" / "parts").iterdir()) == ["2"]
    study.main([str(file), "--work", str(tmp_path / "third"), *words[2:]])
    assert len(done) - had == 2 * 2 * 2 - 1
    assert not (tmp_path / "results" / "slots").exists()
    grown = json.loads((tmp_path / "results" / "slots.json").read_text(encoding="utf-8"))
    assert [p["panel"] for p in grown["points"]] == ["two tasks"] * 8 + ["one"] * 8
    assert grown["points"][:8] == part["points"] and grown["experiments"] == 4
    done[had:] = []
    study.main([str(file), "--again", *words])
    assert len(done) == 2 * 2 * 2 * 2
    document = json.loads((tmp_path / "results" / "slots.json").read_text(encoding="utf-8"))
    assert "Not run yet" not in page([document])
    # Begun anew elsewhere, its first panel does not take the place of both.
    done[:], stops[:] = [], [9]
    with pytest.raises(SystemExit, match="what is finished is kept"):
        study.main([str(file), "--again", "--work", str(tmp_path / "other"), *words[2:]])
    assert json.loads((tmp_path / "results" / "slots.json").read_text("utf-8")) == document
    stops.clear()
    done[:] = []
    study.main([str(file), "--work", str(tmp_path / "none"), *words[2:]])
    other = write(("pool_size=4", "pool_size=3"))  # another question: its panels are measured
    new = str(tmp_path / "new")
    study.main([str(other), "--work", new, "--results", new, "--assets", new])
    assert len(done) == 2 * 2 * 2 * 2
    assert panels_kept(document, read_study(other), [0, 1]) == set()
    file = write()
    assert panels_kept(document, read_study(file), [0, 1]) == {"two tasks", "one"}
    assert panels_kept(document, read_study(file), [0]) == panels_kept(None, read_study(file), [0])
    assert document["settings"] == settings_of(read_study(file))
    assert (tmp_path / "study-slots.svg").read_text(encoding="utf-8") == plot_svg(document)
    points = iter(document["points"])
    for k, (panel, x) in enumerate(itertools.product(("two tasks", "one"), (2, 4))):
        folder = tmp_path / "work" / "slots" / str(k)
        for run in json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"]:
            assert len(run["accuracy_matrix"]) == (2 if panel == "two tasks" else 1)
            if run["label"] == "l2p":
                assert run["hyper_parameters"]["pool_size"] == x
            point = next(points)
            assert (point["panel"], point["x"], point["series"]) == (panel, x, run["label"])
            assert (point["seed"], point["average_accuracy"]) == (
                run["seed"],
                pytest.approx(np.nanmean(np.array(run["accuracy_matrix"][-1], dtype=float))),
            )
            assert (point["usage_entropy"] is None) == (run["label"] == "ncm")
    assert next(points, None) is None


def test_variations_side_by_side_are_those_one_after_another(write, tmp_path):
    file, documents = write(), []
    for jobs in ("1", "2"):
        folder = tmp_path / jobs
        words = ["--work", str(folder / "work"), "--results", str(folder), "--assets", str(folder)]
        study.main([str(file), "--jobs", jobs, *words])
        documents.append(json.loads((folder / "slots.json").read_text(encoding="utf-8")))
        assert not (folder / "slots").exists()
    for document in documents:
        document.pop("seconds")
    assert documents[0] == documents[1]


def test_usage_entropy_by_hand():
    def entropy(*usages: Any) -> float | None:
        return usage_entropy({"branches": [{"usage": usage} for usage in usages]})

    assert entropy([[3, 1, 0, 0], [1, 3, 0, 0]]) == pytest.approx(0.5)  # 2 of 4, alike
    assert entropy([[5], [5]], [[1, 0], [1, 0]]) == 0.0  # the first branch has no choice
    assert entropy([[2, 2], [2, 2]]) == pytest.approx(1.0)
    p = np.array([0.7, 0.2, 0.1])
    assert entropy([[7, 2, 1]]) == pytest.approx(-(p * np.log(p)).sum() / math.log(3))
    assert entropy([[4]]) is None
    assert entropy([]) is None
    assert usage_entropy(None) is None


def test_a_difference_is_taken_seed_by_seed(write):
    file = write(('x = "slots"', 'x = "slots"\nminus = "ncm"'), (', "usage_entropy"', ""))
    asked = read_study(file)
    runs = [
        {"label": label, "seed": seed, "average_accuracy": value}
        for label, seed, value in (
            ("l2p", 0, 0.5),
            ("l2p", 1, 0.7),
            ("ncm", 1, 0.9),
            ("ncm", 0, 0.2),
        )
    ]
    points = points_of(asked, "p", 2, runs, {})
    values = [(p["series"], p["seed"], p["average_accuracy"]) for p in points]
    assert values == [("l2p", 0, pytest.approx(0.3)), ("l2p", 1, pytest.approx(-0.2))]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('x = "slots"', 'z = "slots"'), r"x"),
        (('"usage_entropy"', '"usage"'), "usage_entropy"),
        (('x = "slots"', 'x = "slots"\nalong = "seed"'), r"study\.along"),
        (('x = "slots"', 'x = "slots"\nminus = "ncn"'), "ncm"),
        (("x = 4", 'x = "four"'), "all numbers or all texts"),
        (("x = 4", "x = 2"), "different values"),
        (("pool_size=4", "pool_sise=4"), "pool_size"),
        (("pool_size=4", "pool_size=0"), "pool_size|slots"),
        (("[[panel]]", "[[panels]]"), "panel"),
        (('title = "Slots & <more>"\n', ""), "no title"),
        (("[study]", "[study"), "study"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(write, tmp_path, change, says, monkeypatch):
    monkeypatch.setattr(Runner, "_one", lambda *a: pytest.fail("a run"))
    with pytest.raises(CpoolError, match=says):
        study.run_study(read_study(write(change)), tmp_path / "work")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_committed_studies_can_be_read(path, tmp_path):
    asked = read_study(path)
    cells = asked.cells(tmp_path)
    assert len(cells) == len(asked.panels) * len(asked.variations)
    assert all(len(cell.experiment.seeds) >= 3 for cell in cells)
    experiments = [str({**c.experiment.resolved(), "description": ""}) for c in cells]
    assert len(set(experiments)) == len(cells), "two variations are the same experiment"


# Drawing


def test_marks_and_bars_stand_where_the_numbers_are():
    values = {1: (0.5, 0.6, 0.7), 10: (0.8, 0.8, 0.8), 100: (0.2, 0.4, 0.9)}
    points = [("", x, "m", s, v) for x, row in values.items() for s, v in enumerate(row)]
    svg = plot_svg(made(points, scale="log"))
    found_ = re.findall(r'class="mark"[^>]*translate\(([\d.]+) ([\d.]+)\)', svg)
    marks = [(float(x), float(y)) for x, y in found_]
    scale = {
        float(label.replace("−", "-")): float(y)
        for y, label in re.findall(r'class="end" x="48" y="([\d.]+)">([^<]+)<', svg)
    }
    (low, bottom), (high, top) = min(scale.items()), max(scale.items())

    def y_of(value: float) -> float:
        return bottom - 4 + (value - low) / (high - low) * (top - bottom)

    for (_, y), row in zip(marks, values.values(), strict=True):
        assert y == pytest.approx(y_of(100 * np.mean(row)), abs=0.06)
    xs = [x for x, _ in marks]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)  # 1, 10, 100 in logarithms
    bars = re.findall(r'class="bar"[^>]*M[\d.]+ ([\d.]+)h6m-3 0V([\d.]+)m', svg)
    for (upper, lower), x in zip(bars, (1, 100), strict=True):  # 10 has no deviation
        mean, deviation = 100 * np.mean(values[x]), 100 * np.std(values[x], ddof=1)
        assert float(upper) == pytest.approx(y_of(mean + deviation), abs=0.06)
        assert float(lower) == pytest.approx(y_of(mean - deviation), abs=0.06)
    assert low <= min(map(min, values.values())) * 100
    linear = re.findall(r'class="mark"[^>]*translate\(([\d.]+) ', plot_svg(made(points)))
    assert float(linear[2]) - float(linear[1]) > 5 * (float(linear[1]) - float(linear[0]))


@pytest.mark.parametrize("along", ["variation", "method"])
@pytest.mark.parametrize("metrics", [("average_accuracy",), ("average_accuracy", "usage_entropy")])
def test_the_plot_is_xml_that_asks_for_nothing(along, metrics):
    points = [
        (panel, x, name, seed, 0.1 * seed + 0.2 * (name == "n & <n>"))
        for panel in ("p", "q")
        for x in ("a", "b<c")
        for name in ("m", "n & <n>")
        for seed in range(3)
    ]
    document = made(points, along=along, y=list(metrics), title="A & <title>")
    for point in document["points"]:
        point["usage_entropy"] = 0.5
    svg = plot_svg(document)
    root = ET.fromstring(svg)
    assert root.attrib["aria-label"].startswith("A & <title>. p")
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"m", "n & <n>", "b<c", "an x"} <= set(texts)
    number = 2 * 2 * 2 * len(metrics)
    assert svg.count('class="mark"') == number
    assert svg.count('class="seed"') == (3 * number if along == "method" else 0)
    assert svg.count('class="line"') == (0 if along == "method" else number // 2)
    for word in ("href", "url(", "<script", "font-face"):
        assert word not in svg


def test_colours_are_seen_on_light_and_dark_pages():
    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for colour in COLOURS:
        for paper in ("#ffffff", "#1e2129"):
            pair = sorted([luminance(colour), luminance(paper)])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3, (colour, paper)


@pytest.mark.parametrize("ends", [(61.2, 88.7), (0.0, 1.0), (-3.0, 12.4), (5.0, 5.0), (0.91, 0.93)])
def test_ticks_are_round_few_and_enclose(ends):
    ticks = ticks_of(*ends)
    assert ticks[0] <= ends[0] <= ends[1] <= ticks[-1]
    assert 3 <= len(ticks) <= 8
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1
    assert re.fullmatch(r"[125]0*(\.0*)?|0\.0*[125]0*", f"{steps.pop():.9f}".rstrip("0"))


def drawn() -> dict[str, dict[str, Any]]:
    """Return a document of each kind of plot, with as many names as the studies have."""
    names = ["l2p", "dualprompt", "coda_prompt", "prompt_ridge", "linear_head", "ranpac", "ncm"]
    panels = ["Split Digits", "Split Fashion-MNIST"]
    many = [*panels, "Omniglot-50", "CLINC150", "BANKING77", "Split CIFAR-100-small"]
    rng = np.random.default_rng(0)

    def draw(places: list[str], xs: list[Any], series: list[str], **changes: Any) -> dict[str, Any]:
        all_ = itertools.product(places, xs, series, range(3))
        return made([(*point, float(rng.uniform(0.1, 0.9))) for point in all_], **changes)

    return {
        "sizes": draw(panels, [1, 2, 5, 10, 20], names, scale="log"),
        "long": draw(["A data set of many words, 16 rows each"], [160, 640], names[:5]),
        "orders": draw(panels, names, [""], along="method"),
        "told": draw(panels, names, ["inferred", "told"], along="method"),
        "gain": draw(many, [2, 5, 10, 16], names[3:5], minus="prompt_ridge none", scale="log"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_do_not_overlap_and_can_be_read(chromium, tmp_path, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "plot.svg"
    script = (
        "e => e.map(t => { const b = t.getBoundingClientRect(); "
        "return [b.x, b.y, b.width, b.height] })"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 900, "height": 700}, color_scheme=scheme)
        for name, document in {**COMMITTED, **drawn()}.items():
            file.write_text(plot_svg(document), encoding="utf-8")
            view.goto(file.as_uri())
            boxes = view.eval_on_selector_all("text", script)
            colour = view.eval_on_selector("text", "e => getComputedStyle(e).fill")
            x0, y0, w0, h0 = view.eval_on_selector_all("svg", script)[0]
            for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
                apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 + 1 or y2 + h2 <= y + 1
                assert apart, name
            for x, y, w, h in boxes:
                assert x0 <= x <= x + w <= x0 + w0, name
                assert y0 <= y <= y + h <= y0 + h0, name
            assert (sum(map(int, re.findall(r"\d+", colour)[:3])) > 3 * 128) == (scheme == "dark")
        browser.close()


# Saying


def test_what_was_found_by_hand():
    first, last = (0.50, 0.52, 0.54), (0.60, 0.63, 0.63)  # differences 10, 11, 9 points
    points = [("", x, "m", s, v) for x, r in ((1, first), (5, (0.7,) * 3), (9, last))
              for s, v in enumerate(r)]  # fmt: skip
    # t = 10 / (1 / √3) = 17.3 > 4.30
    said = found(Table(made(points)))
    assert said == ["m rises by 10.00 ± 1.00 points (clear) from 1 to 9, highest at 5."]
    noise = [("", x, "m", s, v) for x, r in (("a", (0.5, 0.6, 0.7)), ("b", (0.6, 0.5, 0.5)))
             for s, v in enumerate(r)]  # fmt: skip
    # differences 10, −10, −20: mean −6.67, deviation 15.28, t = 0.76
    said = found(Table(made(noise)))
    assert said == ["m falls by 6.67 ± 15.28 points (not clear) from a to b."]
    one = [("", "a", "m", 0, 0.5), ("", "b", "m", 0, 0.5)]
    assert found(Table(made(one))) == ["m changes by 0 points (one seed) from a to b."]


def test_two_deviations_are_not_enough_for_three_seeds():
    # differences 1, 3, 5: mean 3, deviation 2, t = 2.6 < 4.30, though above two standard errors
    points = [("", "a", "m", s, 0.5) for s in range(3)]
    points += [("", "b", "m", s, 0.5 + d) for s, d in enumerate((0.01, 0.03, 0.05))]
    assert found(Table(made(points))) == ["m rises by 3.00 ± 2.00 points (not clear) from a to b."]


def test_what_was_found_along_methods():
    told = [("", m, s, 0, v) for m, s, v in (
        ("m", "inferred", 0.5), ("n", "inferred", 0.7), ("m", "told", 0.9), ("n", "told", 0.6),
    )]  # fmt: skip
    assert found(Table(made(told, along="method"))) == [
        "m rises by 40.00 points (one seed) from inferred to told; "
        "n falls by 10.00 points (one seed) from inferred to told."
    ]
    orders = [("", m, "", s, v) for m, r in (("m", (0.5, 0.9, 0.4)), ("n", (0.6, 0.65, 0.5)))
              for s, v in enumerate(r)]  # fmt: skip
    assert found(Table(made(orders, along="method"))) == [
        "best and worst of 3 seeds lie 15.00 (n) to 50.00 points (m) apart; "
        "n is highest with 2 of them."
    ]


def test_the_table_of_the_page_is_that_of_the_numbers():
    points = [
        ("", x, "m", s, v) for x, r in ((1, (0.5, 0.6)), (5, (0.7, 0.9))) for s, v in enumerate(r)
    ]
    text = page([made(points, seeds=[0, 1])])
    assert "| m | 55.00 ± 7.07 | 80.00 ± 14.14 |" in text
    assert '--8<-- "study-made.svg"' in text
    assert "Only 2 seeds." in text
    assert "2 experiments, 2 min" in text
    points.append(("", 5, "n", 0, None))
    assert "| n | – | – |" in page([made(points)])


def test_the_committed_page_and_plots_are_what_the_committed_results_give():
    documents = study.read_all()
    assert study.PAGE.is_file() == bool(documents)
    for path, content in study.outputs(documents).items():
        assert path.read_text(encoding="utf-8") == content, (
            f"{path.name} is out of date: python -m benchmarks.study --page"
        )


def test_committed_results_are_those_of_their_file():
    for document in study.read_all():
        asked = read_study(ROOT / "benchmarks" / "studies" / f"{document['name']}.toml")
        assert document["settings"] == settings_of(asked)
        assert set(document["y"]) <= set(METRICS)
        assert (document["title"], document["question"]) == (asked.title, asked.question)


def test_a_study_of_differences_says_where_they_are_clear():
    points = [("p", x, "m", seed, v) for x, row in {
        2: [0.01, 0.012, 0.011], 5: [0.03, -0.03, 0.0], 10: [-0.02, -0.021, -0.02],
    }.items() for seed, v in enumerate(row)]  # fmt: skip
    assert found(Table(made(points, minus="bare"))) == [
        "Of 3 differences to bare, m is clearly above in 1 (p 2) and clearly below in 1 (p 10); "
        "their mean is −0.31 points."
    ]
    alone = [("p", 2, "m", 0, 0.01)]
    assert found(Table(made(alone, minus="bare"))) == [
        "Of 1 differences to bare, m is clearly above in 0 and clearly below in 0; "
        "their mean is +1.00 points."
    ]


def test_the_page_on_the_order_of_the_papers_cites_what_the_studies_found():
    pages = ROOT / "docs" / "pages"
    lines = (pages / "papers.md").read_text(encoding="utf-8").splitlines()
    # Table, CIFAR and Si-Blurry are of the benchmarks (tests/docs/test_papers_page.py).
    said = " ".join(line for line in lines if not line.startswith("|"))
    said = re.sub(r"On \[CIFAR-100-small\].*?of the table\.", "", said)
    before, blurry = said.split("- **So it is in the setting")
    said = before + blurry.split("- **", 1)[1]
    figures = re.findall(r"\d+\.\d+ ± \d+\.\d+", said)
    found = (pages / "studies.md").read_text(encoding="utf-8")
    assert len(figures) > 15
    assert [figure for figure in figures if figure not in found] == []
