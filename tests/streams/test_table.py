"""CSV and JSON Lines files of one's own: columns, splits, tasks, broken lines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpool.errors import ConfigError, DataError
from cpool.streams import Stream, text_file

Rows = list[dict[str, Any]]


def rows(classes: int = 4, each: int = 5, **more: Any) -> Rows:
    return [
        {"text": f"c{c}, number {i}", "label": f"c{c}", **more}
        for i in range(each)
        for c in range(classes)
    ]


def csv_file(path: Path, table: Rows) -> Path:
    head = ",".join(table[0])
    lines = [",".join(f'"{value}"' for value in row.values()) for row in table]
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


def jsonl_file(path: Path, table: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    return path


def check_labels(stream: Stream) -> None:
    for task in stream:
        for split in (task.train, task.validation, task.test):
            assert all(t.split(",")[0] == stream.class_names[y] for t, y in split)


def test_csv_and_jsonl_give_one_stream(tmp_path: Path) -> None:
    one = text_file(csv_file(tmp_path / "a.csv", rows()), tasks=2)
    two = text_file(jsonl_file(tmp_path / "a.jsonl", rows()), tasks=2)
    assert one.describe() == two.describe()
    assert one.class_names == ("c0", "c1", "c2", "c3")
    assert one.describe()["test_sizes"] == [2, 2] and one.describe()["train_sizes"] == [6, 6]
    check_labels(one)


def test_the_drawn_test_does_not_move_with_the_seed(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", rows(each=20))
    streams = [text_file(path, tasks=2, seed=seed) for seed in range(3)]
    assert len({tuple(sorted(s.joint().test.ids)) for s in streams}) == 1
    assert len({s.fingerprint for s in streams}) == 1
    assert len({s.class_order for s in streams}) > 1
    moved = text_file(path, tasks=2, test_seed=1)
    assert sorted(moved.joint().test.ids) != sorted(streams[0].joint().test.ids)
    assert moved.joint().test.source == streams[0].joint().test.source


def test_split_column_and_test_file(tmp_path: Path) -> None:
    train, test = rows(split="train"), rows(each=2, split="test")
    one = text_file(csv_file(tmp_path / "a.csv", [*test, *train]), tasks=2)
    plain = [{k: row[k] for k in ("text", "label")} for row in (*train, *test)]
    files = [
        csv_file(tmp_path / f"{i}.csv", part) for i, part in enumerate((plain[:20], plain[20:]))
    ]
    two = text_file(files[0], test_path=files[1], tasks=2)
    assert one.describe() == two.describe() and one.describe()["test_sizes"] == [4, 4]
    renamed = [
        {"text": r["text"], "label": r["label"], "fold": r["split"]} for r in (*train, *test)
    ]
    three = text_file(csv_file(tmp_path / "b.csv", renamed), split="fold", tasks=2)
    assert three.fingerprint == one.fingerprint
    with pytest.raises(DataError, match="got 'dev', 'test', 'train'"):
        odd = [*train, *test, {"text": "c0,", "label": "c0", "split": "dev"}]
        text_file(csv_file(tmp_path / "c.csv", odd))
    with pytest.raises(DataError, match="got 'train'"):
        text_file(csv_file(tmp_path / "d.csv", train))


def test_task_column_of_classes(tmp_path: Path) -> None:
    table = [{**row, "task": "late" if row["label"] in ("c0", "c3") else "early"} for row in rows()]
    path = csv_file(tmp_path / "a.csv", table)
    stream = text_file(path)
    assert [t.name for t in stream] == ["late", "early"]
    assert [t.classes for t in stream] == [(0, 3), (1, 2)]
    check_labels(stream)
    orders = {tuple(t.name for t in text_file(path, shuffle=True, seed=s)) for s in range(6)}
    assert orders == {("late", "early"), ("early", "late")}
    assert text_file(path, scenario="task").scenario == "task"
    assert len(text_file(path, tasks=2)) == 2
    for bad in ({"tasks": 3}, {"class_order": [0, 1, 2, 3]}):
        with pytest.raises(ConfigError, match="task column"):
            text_file(path, **bad)
    table[0]["task"] = "early"
    with pytest.raises(DataError, match="class 'c0' in 2 tasks"):
        text_file(csv_file(tmp_path / "b.csv", table))


def test_task_column_of_domains(tmp_path: Path) -> None:
    table = [*rows(2, task="mail"), *rows(2, task="chat"), *rows(2, task="news")]
    path = jsonl_file(tmp_path / "a.jsonl", table)
    stream = text_file(path, scenario="domain")
    assert stream.scenario == "domain" and [t.name for t in stream] == ["mail", "chat", "news"]
    assert stream.describe()["test_sizes"] == [2] * 3
    assert stream.describe()["validation_sizes"] == [2] * 3
    check_labels(stream)
    shuffled = [text_file(path, scenario="domain", shuffle=True, seed=s) for s in range(4)]
    assert {s.fingerprint for s in shuffled} == {stream.fingerprint}
    for other in shuffled:
        for task in other:
            mine = next(t for t in stream if t.name == task.name)
            assert np.array_equal(mine.test.ids, task.test.ids) and mine.test.x == task.test.x
    with pytest.raises(ConfigError, match='a task column with scenario "domain"'):
        text_file(jsonl_file(tmp_path / "b.jsonl", rows()), scenario="domain")
    table = [row for row in table if (row["task"], row["label"]) != ("chat", "c1")]
    with pytest.raises(DataError, match=r"none for label 1 \('c1'\) \(in 'chat'\)"):
        text_file(jsonl_file(tmp_path / "c.jsonl", table), scenario="domain")


def test_columns_by_other_names(tmp_path: Path) -> None:
    table = [{"id": i, "query": r["text"], "intent": r["label"]} for i, r in enumerate(rows())]
    path = csv_file(tmp_path / "a.csv", table)
    check_labels(text_file(path, text="query", label="intent", tasks=4))
    with pytest.raises(DataError, match=r"column 'text' .*columns 'id', 'query', 'intent'"):
        text_file(path)
    with pytest.raises(DataError, match="column 'domain'"):
        text_file(path, text="query", label="intent", task="domain")


def test_labels_may_be_whole_numbers(tmp_path: Path) -> None:
    table = [{"text": "a", "label": label} for label in (10, 9, 10, 9)]
    assert text_file(jsonl_file(tmp_path / "a.jsonl", table), tasks=2).class_names == ("9", "10")


def test_quoting_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"a, ""b""\nc",x\r\n\r\nd,y\r\ne,x\r\nf,y\r\n')
    joint = text_file(path, tasks=2, validation=0).joint()
    assert sorted([*joint.train.x, *joint.test.x])[0] == 'a, "b"\nc'
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "a", "label": "x"}\n\n{"text": "b", "label": "y"}\n' * 2)
    assert len(text_file(path, tasks=2).joint().train) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text"\n', "line 2; got no JSON"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n\n[1]\n', "line 3; got a JSON list"),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}\n{"text": "a"}\n',
            "line 2; got the columns 'text'",
        ),
        ("a.jsonl", '{"text": null, "label": "b"}\n', "line 1; got None in column 'text'"),
        ("a.jsonl", '{"text": "a", "label": 0.5}\n', "0.5 in column 'label'"),
        ("a.jsonl", '{"text": "a", "label": true}\n', "True in column 'label'"),
        ("a.jsonl", "", "no rows"),
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text;label\na;b\n", "the columns 'text;label'"),
        ("a.csv", "text,label\na,b\na,b,c\n", "line 3; got 3 cells under 2 columns"),
        ("a.csv", "text,label\na\n", "line 2; got 1 cells under 2 columns"),
        ("a.csv", "text,label\n ,b\n", "line 2; got ' ' in column 'text'"),
        ("a.csv", "text,label\na,\n", "line 2; got '' in column 'label'"),
        ("a.csv", 'text,label\n"a,b\n', "line 2; got unexpected end of data"),
        ("a.csv", "text,label\na,x\nb,x\n", "at least two classes"),
        ("a.csv", "text,label\na,x\nb,x\nc,y\n", "1 of class 'y'"),
        ("a.tsv", "text\tlabel\n", "of another ending"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        text_file(tmp_path / name, tasks=1)


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which is not there"):
        text_file(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,b\n")
    with pytest.raises(DataError, match="UnicodeDecodeError"):
        text_file(tmp_path / "a.csv")


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5])
def test_test_fraction(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match="test_fraction between 0 and 1"):
        text_file(csv_file(tmp_path / "a.csv", rows()), test_fraction=fraction, tasks=2)
