"""Tables of accuracy on the way through training, from rows made by hand."""

from benchmarks.curve_tables import equal, gains, nearness, projection, tables, transfer, universal
from cpool._io import write_json


def row(kind, seed, source, target, first, last, **more):
    return {
        "kind": kind, "seed": seed, "source": source, "target": target,
        "accuracy": {"0": first, "10": last}, **more,
    }  # fmt: skip


def recycled():
    rows = []
    for seed in (0, 1):
        up = 0.1 * seed
        rows += [row("scratch", seed, "", "a_b", 0.1, 0.5 + up)]
        rows += [row("scratch", seed, "", "c", 0.2, 0.6 + up)]
        rows += [row("scratch", seed, "", "d", 0.3, 0.7 + up)]
        for source, target, value, near in (
            ("c", "a_b", 0.7, -2.0),
            ("d", "a_b", 0.3, -1.0),
            ("a_b", "c", 0.6, -1.0),
            ("d", "c", 0.8, -3.0),
            ("a_b", "d", 0.7, -1.0),
            ("c", "d", 0.5, -2.0),
        ):
            rows += [row("transfer", seed, source, target, 0.0, value + up, nearness=near)]
        rows += [row("shared", seed, "a_b, c", "d", 0.4, 0.8)]
        rows += [row("multitask", seed, "a_b, c", "d", 0.4, 0.9)]
        rows += [row("taught", seed, "a_b, c", "d", 0.5, 0.9)]
    return {"rows": rows}


def test_transfer_is_the_mean_over_pairs_and_then_over_seeds():
    lines = transfer(recycled())
    assert lines[0] == "| start | 0 steps | 10 steps |"
    # 0.6 and 0.7: their sample deviation is 0.0707.
    assert lines[2] == "| drawn words | 20.0 ± 0.0 | 65.0 ± 7.1 |"
    assert lines[3] == "| the prompt of another domain | 0.0 ± 0.0 | 65.0 ± 7.1 |"
    # The nearest: 0.3, 0.6, 0.7; the farthest: 0.7, 0.8, 0.5.
    assert lines[4] == "| that of the nearest domain | 0.0 ± 0.0 | 58.3 ± 7.1 |"
    assert lines[5] == "| that of the farthest | 0.0 ± 0.0 | 71.7 ± 7.1 |"


def test_gains_are_taken_from_the_same_task_and_seed():
    assert gains(recycled(), "10") == [
        "| from \\ to | a b | c | d |",
        "|---|---:|---:|---:|",
        "| a b |  | +0.0 | +0.0 |",
        "| c | +20.0 |  | −20.0 |",
        "| d | −20.0 | +20.0 |  |",
    ]


def test_the_map_of_tasks_has_each_pair():
    assert nearness(recycled())[2:] == [
        "| a b |  | −1.0 | −1.0 |",
        "| c | −2.0 |  | −2.0 |",
        "| d | −1.0 | −3.0 |  |",
    ]


def test_the_last_domain_stands_alone_in_its_table():
    lines = universal(recycled())[2:]
    assert [line.split(" | ")[2] for line in lines] == [
        "75.0 ± 7.1 |",
        "65.0 ± 7.1 |",
        "80.0 ± 0.0 |",
        "90.0 ± 0.0 |",
        "90.0 ± 0.0 |",
    ]


def test_steps_to_equal_accuracy():
    # With drawn words d goes from 30 to 75 %; one prompt from 0 to 65, never 75; the shared
    # one from 40 to 80, P* from 40 to 90, taught from 50 to 90.
    assert equal(recycled()) == [
        "| start | 10: 75.0 % |",
        "|---|---:|",
        "| the prompt of one domain | – |",
        "| one prompt, trained on three domains in turn | 9 |",
        "| P* of multitask prompt tuning | 7 |",
        "| the same, with teachers | 6 |",
    ]


def test_a_start_that_is_there_at_once_needs_no_step():
    document = recycled()
    for made in document["rows"]:
        if made["kind"] == "taught":
            made["accuracy"] = {"0": 0.8, "10": 0.7}
    assert equal(document)[-1] == "| the same, with teachers | 0 |"


def test_the_tables_of_a_folder_are_of_what_is_there(tmp_path):
    assert tables(tmp_path) == []
    rows = [
        {"start": start, "target": target, "seed": seed, "accuracy": {"0": 0.5, "60": 0.9}}
        for start in ("own", "trained", "untrained")
        for target in ("SmolLM2", "MiniLM")
        for seed in (0, 1)
    ]
    write_json(tmp_path / "projection.json", {"rows": rows})
    (table,) = tables(tmp_path)
    assert table == projection({"rows": rows}) and len(table) == 8
    assert table[2] == "| SmolLM2, from its own start | 50.0 ± 0.0 | 90.0 ± 0.0 |"
    write_json(tmp_path / "recycling.json", recycled())
    assert len(tables(tmp_path)) == 7
