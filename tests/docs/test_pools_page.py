"""The page of pools says what the committed measurements say."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pages" / "pools.md").read_text(encoding="utf-8")


def measured(name: str):
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def rows(first: str) -> list[list[str]]:
    """Return the cells of the table whose header starts with `first`."""
    lines = PAGE[PAGE.index(f"| {first} |") :].splitlines()[2:]
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_of_detectors_is_what_was_measured():
    known = measured("outofscope")["rows"]
    table = rows("detector")
    assert {row[0] for row in table} == set(known)
    for label, auroc, fpr, inside, outside in table:
        row = known[label]
        assert auroc == f"{row['auroc']:.3f} ± {row['auroc_std']:.3f}", label
        cells = row["fpr_at_95"], row["rejected_in_scope"], row["rejected_out_of_scope"]
        for cell, value in zip((fpr, inside, outside), cells, strict=True):
            assert abs(float(cell) - value) <= 0.00051, label


def test_the_tables_of_search_are_what_was_measured():
    known = measured("speed-selection")
    for label, small, large, *recall in rows("a million keys"):
        for batch, cell in (("batch 32", small), ("batch 128", large)):
            if cell:
                ratio = known["million"][batch]["ratio"][label]
                assert abs(float(cell.rstrip(" %")) - 100 * ratio) <= 0.0101, (label, batch)
        if "FAISS" in label:
            found = known["million"]["recall_at_1"][f"width {label.rsplit(' ', 1)[1]}"]
            for cell, value in zip(recall, found.values(), strict=True):
                assert abs(float(cell) - value) <= 0.00051, label
    for keys, index, ratio, *recall in rows("keys, width 384"):
        row = next(
            r
            for r in known["crossover"]
            if (r["keys"], r["index"]) == (int(keys.replace(",", "")), index)
        )
        assert abs(float(ratio) - row["faiss_over_exact"]) <= 0.0051
        for cell, value in zip(recall, row["recall_at_1"].values(), strict=True):
            assert abs(float(cell) - value) <= 0.00051
