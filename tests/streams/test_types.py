"""Values of a wrong type, as a file of settings may hold them.

The other tests run with annotations checked, where such a call never arrives; a user's does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

CASES = [
    ("split_digits", {"tasks": "5"}),
    ("split_digits", {"tasks": 2.5}),
    ("split_digits", {"tasks": True}),
    ("split_digits", {"tasks": [1, 2]}),
    ("split_digits", {"tasks": ["0123456789"]}),
    ("split_digits", {"tasks": {"a": 1}}),
    ("split_digits", {"seed": "0"}),
    ("split_digits", {"seed": 0.0}),
    ("split_digits", {"seed": False}),
    ("split_digits", {"seed": None}),
    ("split_digits", {"validation": "0.1"}),
    ("split_digits", {"validation": False}),
    ("split_digits", {"validation": None}),
    ("split_digits", {"class_order": 3}),
    ("split_digits", {"class_order": "0123456789"}),
    ("split_digits", {"class_order": [0.5] * 10}),
    ("split_digits", {"class_order": [[0]] * 10}),
    ("split_digits", {"class_order": []}),
    ("split_digits", {"scenario": "domain"}),
    ("split_digits", {"scenario": 3}),
    ("rotated_digits", {"tasks": "3"}),
    ("rotated_digits", {"max_angle": "90"}),
    ("rotated_digits", {"angles": 90}),
    ("rotated_digits", {"angles": ["a"]}),
    ("rotated_digits", {"angles": "090"}),
    ("rotated_digits", {"shuffle": "no"}),
    ("permuted_digits", {"tasks": 2.0}),
    ("permuted_digits", {"permutation_seed": "1"}),
    ("permuted_digits", {"shuffle": 1}),
    ("image_domains", {"path": 3}),
    ("image_domains", {"path": "FOLDER", "domains": 3}),
    ("image_domains", {"path": "FOLDER", "domains": "one"}),
    ("image_domains", {"path": "FOLDER", "domains": [1]}),
    ("image_domains", {"path": "FOLDER", "test_domains": None}),
    ("image_domains", {"path": "FOLDER", "tasks": "1"}),
    ("image_domains", {"path": "FOLDER", "tasks": [["one"]]}),
    ("image_folder", {"path": 3}),
    ("image_folder", {"path": ""}),
    ("text_file", {"path": ["a.csv"]}),
    ("text_file", {"path": "PATH", "test_path": 3}),
    ("text_file", {"path": "PATH", "test_fraction": "0.2"}),
    ("text_file", {"path": "PATH", "test_seed": "0"}),
    ("text_file", {"path": "PATH", "shuffle": "yes"}),
    ("text_file", {"path": "PATH", "scenario": ["class"]}),
    ("clinc150", {"by": 3}),
    ("clinc150", {"data": 3}),
    ("clinc150", {"train_per_class": "10"}),
    ("clinc150", {"train_per_class": 2.0}),
    (3, {}),
    (["split_digits"], {}),
]
PROGRAM = """
import json, sys
from cpool.streams import Examples, domain_incremental, load_stream
import numpy as np
for name, options in json.loads(sys.argv[1]):
    try:
        load_stream(name, **options)
        print("nothing")
    except Exception as error:
        print(type(error).__name__, str(error)[:70].replace(chr(10), " "))
for call in (
    lambda: Examples(["a"], np.zeros(1, np.int32), np.zeros(1, int), "s"),
    lambda: Examples(["a"], np.zeros(1, int), np.zeros((1, 1), int), "s"),
    lambda: domain_incremental([(["a", "b"], [0, 1])]),
):
    try:
        call()
        print("nothing")
    except Exception as error:
        print(type(error).__name__)
"""


def test_wrong_types_are_refused_as_settings(tmp_path: Path, root: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("text,label\n" + "a,x\nb,y\n" * 3)
    (tmp_path / "images" / "one").mkdir(parents=True)
    text = json.dumps(CASES).replace("PATH", str(table))
    text = text.replace("FOLDER", str(tmp_path / "images"))
    rows = [["a", "x"], ["b", "y"]]
    folder = {
        "data_full.json": {"train": rows, "test": rows},
        "domains.json": {"one": ["x"], "two": ["y"]},
    }
    for name, value in folder.items():
        (tmp_path / name).write_text(json.dumps(value))
    env = {**os.environ, "CPOOL_DATA": str(tmp_path), "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, text], env=env, capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(CASES) + 3
    for case, line in zip(CASES, lines, strict=False):
        assert line.split()[0] in ("ConfigError", "UnknownNameError"), (case, line)
    assert lines[-3:] == ["DataError"] * 3
