"""Ranks over streams: Friedman, Nemenyi, the groups, and a diagram whose labels do not overlap."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cpool.errors import MetricError
from cpool.report.rank_plot import critical_difference_svg
from cpool.report.ranks import Ranking, rank_methods, ranks_of


def streams(methods: int, number: int, spread: float = 0.2) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    base = np.linspace(0.9, 0.9 - spread, methods)
    return {
        f"stream {j}": {
            f"method_{i}" + "_long" * (i % 3): float(base[i] + rng.normal(0, 0.02))
            for i in range(methods)
        }
        for j in range(number)
    }


def test_mean_ranks_by_hand() -> None:
    ranking = rank_methods(
        {
            "x": {"a": 0.9, "b": 0.8, "c": 0.7},
            "y": {"c": 0.9, "a": 0.9, "b": 0.1},
            "z": {"b": 0.3, "a": 0.2, "c": 0.1, "only here": 0.5},
        }
    )
    # a: 1, 1.5, 2; b: 2, 3, 1; c: 3, 1.5, 3
    assert ranking.methods == ("a", "b", "c")
    assert ranking.mean == pytest.approx([4.5 / 3, 2, 7.5 / 3])
    assert ranking.left_out == ("only here",)
    assert ranks_of({"a": 0.5, "b": 0.7}) == {"a": 2.0, "b": 1.0}


def test_friedman_by_hand() -> None:
    # ranks 1, 2, 3 on all of N = 4: χ² = 12 N/(k(k+1)) Σ R̄² − 3 N (k+1) = 4·14 − 48 = 8
    found = rank_methods({f"s{j}": {"a": 3.0, "b": 2.0, "c": 1.0} for j in range(4)})
    assert found.p == pytest.approx(stats.chi2.sf(8, 2))
    assert found.p == pytest.approx(math.exp(-4))


def test_the_critical_difference_is_that_of_the_published_table() -> None:
    # Demšar 2006, table 5a: q at 0.05 is 1.960 for 2, 2.343 for 3, 2.569 for 4, 3.164 for 10.
    for k, q in {2: 1.960, 3: 2.343, 4: 2.569, 10: 3.164}.items():
        ranking = rank_methods(streams(k, 14))
        assert ranking.critical == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), abs=2e-3)


def test_the_example_of_the_paper() -> None:
    # Demšar 2006, section 3.2.2: k = 4, N = 14, CD = 1.25 (at 0.05).
    assert rank_methods(streams(4, 14)).critical == pytest.approx(1.25, abs=0.01)


def naive_groups(mean: tuple[float, ...], critical: float) -> set[tuple[int, int]]:
    pairs = itertools.combinations(range(len(mean)), 2)
    within = {(i, j) for i, j in pairs if mean[j] - mean[i] < critical}
    return {
        (i, j)
        for i, j in within
        if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in within)
    }


@pytest.mark.parametrize("methods", [2, 5, 12])
@pytest.mark.parametrize("number", [2, 6, 40])
def test_groups_are_the_largest_that_are_not_parted(methods: int, number: int) -> None:
    ranking = rank_methods(streams(methods, number))
    assert ranking.critical is not None
    assert set(ranking.groups) == naive_groups(ranking.mean, ranking.critical)
    assert list(ranking.mean) == sorted(ranking.mean)


def test_what_cannot_be_tested_is_not() -> None:
    one = rank_methods({"x": {"a": 0.5, "b": 0.4, "c": 0.1}})
    assert (one.p, one.critical, one.groups) == (None, None, ())
    two = rank_methods(streams(2, 5))
    assert two.p is None
    assert two.critical is not None
    alike = rank_methods({name: {"a": 0.5, "b": 0.5, "c": 0.5} for name in "xy"})
    assert alike.p == 1.0
    with pytest.raises(MetricError, match="none of 2 methods on 2 streams"):
        rank_methods({"x": {"a": 0.5}, "y": {"b": 0.5}})
    with pytest.raises(MetricError):
        rank_methods({})


@pytest.mark.parametrize(("methods", "number"), [(1, 1), (2, 2), (3, 1), (7, 6), (26, 6)])
def test_the_diagram_is_xml_that_asks_for_nothing(methods: int, number: int) -> None:
    ranking = rank_methods(streams(methods, number))
    svg = critical_difference_svg(ranking, "Ranks & <more>")
    root = ET.fromstring(svg)
    assert "Ranks & <more>. Mean ranks: " in root.attrib["aria-label"]
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for name, mean in zip(ranking.methods, ranking.mean, strict=True):
        assert f"{name} {mean:.2f}" in texts
    assert "href" not in svg
    assert "url(" not in svg
    assert "<script" not in svg
    assert svg.count('class="group"') == len(ranking.groups)


def test_bars_and_lines_stand_where_the_ranks_are() -> None:
    mean = (1.0, 2.0, 4.0, 5.0)
    ranking = Ranking(("a", "b", "c", "d"), ("x", "y"), mean, 0.1, 1.5, ((0, 1), (2, 3)), ())
    svg = critical_difference_svg(ranking, "t")
    axis = re.search(r'<path d="M([\d.]+) 62H([\d.]+)"/>', svg)
    assert axis is not None
    left, right = map(float, axis.groups())

    def x_of(rank: float) -> float:
        return left + (rank - 1) / 3 * (right - left)

    bars = [tuple(map(float, b)) for b in re.findall(r'group" d="M([\d.]+) \d+H([\d.]+)"', svg)]
    for bar, (first, last) in zip(bars, ranking.groups, strict=True):
        expected = [x_of(mean[first]) - 4, x_of(mean[last]) + 4]
        assert bar == pytest.approx(expected, abs=0.06)
    tags = [float(x) for x in re.findall(r"M([\d.]+) 62V", svg)]
    assert tags == pytest.approx([x_of(rank) for rank in mean], abs=0.06)
    scale = re.search(r"M([\d.]+) 24v8M[\d.]+ 28H([\d.]+)M", svg)
    assert scale is not None
    start, end = map(float, scale.groups())
    assert end - start == pytest.approx(x_of(2.5) - x_of(1), abs=0.11)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("methods", "number"), [(26, 6), (7, 6), (2, 2)])
def test_labels_do_not_overlap_and_can_be_read(
    chromium: str, tmp_path: Any, methods: int, number: int, scheme: str
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "ranks.svg"
    file.write_text(critical_difference_svg(rank_methods(streams(methods, number)), "t"))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 700}, color_scheme=scheme)
        page.goto(file.as_uri())
        script = "e => e.map(t => { const b = t.getBBox(); return [b.x, b.y, b.width, b.height] })"
        boxes = page.eval_on_selector_all("text", script)
        view = page.eval_on_selector(
            "svg", "e => [e.viewBox.baseVal.width, e.viewBox.baseVal.height]"
        )
        colour = page.eval_on_selector("text", "e => getComputedStyle(e).fill")
        browser.close()
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 + 1 or y2 + h2 <= y + 1
    for x, y, w, h in boxes:
        assert x >= 0
        assert y >= 0
        assert x + w <= view[0]
        assert y + h <= view[1]
    light = sum(map(int, re.findall(r"\d+", colour)[:3])) > 3 * 128
    assert light == (scheme == "dark")
