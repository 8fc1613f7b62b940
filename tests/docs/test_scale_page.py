"""The page on scale says what the committed measurement found."""

import json

from benchmarks import scale


def test_the_page_holds_the_tables_of_the_committed_results():
    result = json.loads(scale.RESULT.read_text("utf-8"))
    text = scale.PAGE.read_text("utf-8")
    start, end = "<!-- scale: begin -->\n", "\n<!-- scale: end -->"
    assert text.split(start)[1].split(end)[0] == scale.tables(result)
    assert [row["tasks"] for row in result["tasks"]] == list(scale.COUNTS)
    assert [row["slots"] for row in result["slots"]] == list(scale.SLOTS)


def test_what_a_slot_weighs_is_its_numbers():
    (large,) = [row for row in scale.sizes() if row["model"] == "Llama-3 70B"]
    assert large["prompt_bytes"] == 20 * 8192 * 4
    assert large["prefix_bytes"] == 20 * 80 * 2 * 8 * 128 * 4  # tokens, layers, k and v, kv-heads
    assert scale.amount(655_360) == "655 kB" and scale.span(0.0014) == "1.4 ms"
