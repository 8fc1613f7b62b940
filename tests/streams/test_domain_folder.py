"""Streams of domain folders: layouts, order, a common test, classes that differ, laziness."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cpool
from cpool.errors import ConfigError, DataError, UnknownNameError
from cpool.streams import ImagePaths, Stream, domain_incremental, image_domains, load_stream
from cpool.streams._splits import dealt

CLASSES = ("cat", "cow", "hen")


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (value,) * 3).save(path)


def fill(root: Path, number: int, each: int = 5, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write images whose grey says domain, class and place."""
    for c, name in enumerate(classes):
        for i in range(each):
            write(root / name / f"{i}.png", 60 * number + 20 * c + i)
    return root


def flat(root: Path, domains: tuple[str, ...] = ("ink", "oil", "pen"), each: int = 5) -> Path:
    for number, domain in enumerate(domains):
        fill(root / domain, number, each)
    return root


def split(root: Path, domains: tuple[str, ...] = ("ink", "oil", "pen")) -> Path:
    for number, domain in enumerate(domains):
        fill(root / domain / "train", number)
        fill(root / domain / "test", number, each=2)
    return root


def greys(x: Any) -> list[int]:
    return [int(image[0, 0, 0]) for image in x]


def names(stream: Stream) -> list[str]:
    return [task.name for task in stream]


def test_flat_layout_draws_a_test_of_every_class_and_domain(tmp_path: Path) -> None:
    streams = [image_domains(flat(tmp_path), seed=seed) for seed in (0, 1)]
    for stream in streams:
        assert (stream.name, stream.scenario, stream.modality) == (
            "image_domains",
            "domain",
            "image",
        )
        assert stream.class_names == CLASSES and names(stream) == ["ink", "oil", "pen"]
        for number, task in enumerate(stream):
            assert task.classes == (0, 1, 2)
            for part, each in ((task.train, 3), (task.validation, 1), (task.test, 1)):
                assert np.bincount(part.y).tolist() == [each] * 3
                assert [g // 60 for g in greys(part.x)] == [number] * 3 * each
                assert [g % 60 // 20 for g in greys(part.x)] == part.y.tolist()
    one, two = streams
    assert one.fingerprint == two.fingerprint
    assert [t.test.ids.tolist() for t in one] == [t.test.ids.tolist() for t in two]
    assert [t.validation.ids.tolist() for t in one] != [t.validation.ids.tolist() for t in two]
    other = image_domains(tmp_path, test_seed=3, test_fraction=0.6)
    assert other.describe()["test_sizes"] == [9] * 3 and other.fingerprint != one.fingerprint


def test_a_domain_is_divided_alike_whichever_others_are_chosen(tmp_path: Path) -> None:
    whole = image_domains(flat(tmp_path), validation=0)
    part = image_domains(tmp_path, domains=["pen", "ink"], validation=0)
    assert names(part) == ["pen", "ink"]
    for task, same in ((part[0], whole[2]), (part[1], whole[0])):
        assert greys(task.test.x) == greys(same.test.x)
        assert greys(task.train.x) == greys(same.train.x)


def test_split_layout(tmp_path: Path) -> None:
    stream = image_domains(split(tmp_path), validation=0)
    assert stream.describe()["train_sizes"] == [15] * 3
    assert stream.describe()["test_sizes"] == [6] * 3
    parts = {p.parts[-4:-2] for p in stream[1].test.x.paths}
    assert parts == {("oil", "test")}
    ids = np.concatenate([part.ids for t in stream for part in (t.train, t.test)])
    assert sorted(ids) == list(range(63))


def test_layouts_are_not_mixed(tmp_path: Path) -> None:
    split(tmp_path, ("ink",))
    fill(tmp_path / "oil", 1)
    with pytest.raises(DataError, match="both in 'ink' and neither in 'oil'"):
        image_domains(tmp_path)
    assert names(image_domains(tmp_path, domains=["oil"])) == ["oil"]
    fill(tmp_path / "pen" / "train", 2)
    with pytest.raises(DataError, match=r"pen.test with a folder a class"):
        image_domains(tmp_path, domains=["pen"])


def test_a_test_folder_may_lack_a_class(tmp_path: Path) -> None:
    split(tmp_path, ("ink", "oil"))
    for file in (tmp_path / "oil" / "test" / "cow").iterdir():
        file.unlink()
    assert image_domains(tmp_path)[1].test.y.tolist() == [0, 0, 2, 2]


def test_domains_come_in_the_order_given_or_drawn(tmp_path: Path) -> None:
    flat(tmp_path, ("2", "10", "1", "3"))
    assert names(image_domains(tmp_path)) == ["1", "2", "3", "10"]
    assert names(image_domains(tmp_path, domains=["3", "1"])) == ["3", "1"]
    assert names(image_domains(tmp_path, tasks=3)) == ["1", "2", "3"]
    drawn = [image_domains(tmp_path, tasks=3, shuffle=True, seed=seed) for seed in range(6)]
    orders = {tuple(names(stream)) for stream in drawn}
    assert len(orders) > 2 and all(set(order) == {"1", "2", "3"} for order in orders)
    assert len({stream.fingerprint for stream in drawn}) == 1


def test_a_common_test_is_dealt_to_the_tasks(tmp_path: Path) -> None:
    flat(tmp_path, ("s1", "s2", "s3", "s4"), each=5)
    stream = image_domains(tmp_path, test_domains=["s3", "s2"], validation=0)
    assert names(stream) == ["s1", "s4"]
    assert stream.arrangement == {"name": "image_domains", "test_domains": ["s3", "s2"]}
    for number, task in zip((0, 3), stream, strict=True):
        assert [g // 60 for g in greys(task.train.x)] == [number] * 15  # none of it is tested
        assert np.bincount(task.test.y).tolist() == [5] * 3  # half of the 2 x 5 of each class
        assert {p.parts[-3] for p in task.test.x.paths} == {"s2", "s3"}
    dealt_out = sorted(p for task in stream for p in task.test.x.paths)
    there = sorted(p for s in ("s2", "s3") for p in (tmp_path / s).glob("*/*.png"))
    assert dealt_out == there
    assert sorted(p for t in stream for p in t.train.x.paths) == sorted(
        p for s in ("s1", "s4") for p in (tmp_path / s).glob("*/*.png")
    )


def test_the_mean_of_the_tasks_is_the_accuracy_on_the_common_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for file in flat(tmp_path, ("s1", "s2", "s3"), each=6).glob("*/*/*.png"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    stream = image_domains(tmp_path, test_domains=["s3"], validation=0)
    learner = cpool.Learner(cpool.NCM().build(cpool.load_backbone("embedded")), quiet=True)
    matrix = learner.run(stream)
    whole = stream.joint().test
    right = (np.asarray(learner.predict(whole.x)) == whole.y).mean()
    assert 0 < right < 1 and np.mean(matrix.values[-1]) == pytest.approx(right)


def test_the_seed_does_not_move_the_common_test(tmp_path: Path) -> None:
    flat(tmp_path, ("s1", "s2", "s3", "s4"))
    options: dict[str, Any] = {"test_domains": ["s4"]}
    one, two = (image_domains(tmp_path, seed=s, shuffle=True, **options) for s in (0, 4))
    assert names(one) != names(two) and one.fingerprint == two.fingerprint
    tests = [{t.name: t.test.ids.tolist() for t in stream} for stream in (one, two)]
    assert tests[0] == tests[1]
    other = image_domains(tmp_path, test_seed=1, **options)
    assert {t.name: greys(t.test.x) for t in other} != {t.name: greys(t.test.x) for t in one}


def test_all_images_of_split_domains_count_with_a_common_test(tmp_path: Path) -> None:
    stream = image_domains(split(tmp_path), test_domains=["pen"], validation=0)
    assert stream.describe()["train_sizes"] == [21, 21]
    assert sorted(stream.describe()["test_sizes"]) == [10, 11]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_differ_by_one_at_most(count: int) -> None:
    groups = np.repeat([0, 1, 2, 3], [5, 1, 8, 4])
    shares = dealt(groups, count, (0, 12))
    for some in (groups >= 0, *(groups == g for g in range(4)), groups < 2, groups >= 2):
        sizes = np.bincount(shares[some], minlength=count)
        assert sizes.sum() == some.sum() and np.ptp(sizes) <= 1
    assert count == 1 or shares.tolist() != dealt(groups, count, (1, 12)).tolist()


def test_fewer_test_images_than_tasks_are_refused(tmp_path: Path) -> None:
    flat(tmp_path, ("a", "b", "c", "d", "z"), each=2)
    with pytest.raises(DataError, match=r"for each of 4 tasks; got 3\. .*test_per_class"):
        image_domains(tmp_path, test_domains=["z"], test_per_class=1)
    assert len(image_domains(tmp_path, test_domains=["z"], test_per_class=1, tasks=3)) == 3


@pytest.mark.parametrize("test_domains", [[], ["oil"]])
def test_domains_must_have_the_same_classes(tmp_path: Path, test_domains: list[str]) -> None:
    flat(tmp_path)
    write(tmp_path / "oil" / "dog" / "0.png", 1)
    with pytest.raises(DataError, match=r"the 3 classes of 'ink'.*got also 'dog' in 'oil'"):
        image_domains(tmp_path, test_domains=test_domains)
    for name in ("cat", "hen"):
        for file in (tmp_path / "oil" / name).iterdir():
            file.unlink()
    (tmp_path / "oil" / "hen").rmdir()
    with pytest.raises(DataError, match="got none of 'cat', 'hen' and also 'dog' in 'oil'"):
        image_domains(tmp_path, test_domains=test_domains)
    assert names(image_domains(tmp_path, domains=["ink", "pen"])) == ["ink", "pen"]


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path) -> None:
    split(tmp_path)
    write(tmp_path / "pen" / "test" / "dog" / "0.png", 1)
    with pytest.raises(DataError, match="got also 'dog' in 'pen'"):
        image_domains(tmp_path)


def test_wrong_names_say_the_nearest(tmp_path: Path) -> None:
    flat(tmp_path)
    with pytest.raises(UnknownNameError, match=r"'oli'. Did you mean 'oil'"):
        image_domains(tmp_path, domains=["ink", "oli"])
    with pytest.raises(UnknownNameError, match=r"'pens'. Did you mean 'pen'"):
        image_domains(tmp_path, test_domains=["pens"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": []}, "domains to train on.*got none"),
        ({"test_domains": ["ink", "oil", "pen"]}, "domains to train on.*got none"),
        ({"domains": ["ink", "ink"]}, "'ink' twice"),
        ({"domains": ["ink", "oil"], "test_domains": ["oil"]}, "'oil' in both"),
        ({"domains": "ink"}, "domains as a list of names.*got 'ink'"),
        ({"test_domains": "ink"}, "test_domains as a list of names"),
        ({"tasks": 4}, "tasks from 1 to 3"),
        ({"tasks": 3, "test_domains": ["pen"]}, "tasks from 1 to 2"),
        ({"tasks": 0}, "tasks as a whole number from 1"),
        ({"test_fraction": 1.5}, "test_fraction between 0 and 1"),
        ({"test_seed": -1}, "test_seed as a whole number"),
        ({"test_seed": -1, "test_domains": ["pen"]}, "test_seed as a whole number"),
        ({"train_per_class": 0}, "train_per_class"),
        ({"test_per_class": 0, "test_domains": ["pen"]}, "test_per_class"),
        ({"validation": 1}, "validation"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    flat(tmp_path)
    with pytest.raises(ConfigError, match=message):
        image_domains(tmp_path, **options)


def test_subsets_are_of_each_class_and_domain(tmp_path: Path) -> None:
    flat(tmp_path)
    options: dict[str, Any] = {"train_per_class": 2, "test_per_class": 1, "validation": 0}
    stream = image_domains(tmp_path, test_fraction=0.4, **options)
    assert stream.describe()["train_sizes"] == [6] * 3
    assert stream.describe()["test_sizes"] == [3] * 3
    again, other = (image_domains(tmp_path, subset_seed=s, seed=7, **options) for s in (0, 5))
    kept = [greys(again[0].train.x), greys(other[0].train.x)]
    assert kept[0] != kept[1] and again.fingerprint != other.fingerprint
    common = image_domains(tmp_path, test_domains=["oil", "pen"], **options)
    assert common.describe()["train_sizes"] == [6] and common.describe()["test_sizes"] == [6]


def test_files_that_a_subset_leaves_out_are_not_opened(tmp_path: Path) -> None:
    flat(tmp_path, ("ink", "oil"))
    options: dict[str, Any] = {"domains": ["ink"], "train_per_class": 1, "test_per_class": 1}
    stream = image_domains(tmp_path, validation=0, **options)
    used = {*stream[0].train.x.paths, *stream[0].test.x.paths}
    for file in tmp_path.glob("*/*/*.png"):
        if file not in used:
            file.write_bytes(b"no image")
    again = image_domains(tmp_path, validation=0, **options)
    assert again.fingerprint == stream.fingerprint and len(used) == 6
    with pytest.raises(DataError, match=r"\.png.*UnidentifiedImageError.*in 'ink'"):
        image_domains(tmp_path)


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    stream = image_domains(flat(tmp_path, ("ink", "oil")), test_domains=["oil"])
    for part in (stream[0].train, stream[0].validation, stream[0].test, stream.joint().train):
        assert isinstance(part.x, ImagePaths)
    write(stream[0].train.x.paths[0], 251)
    assert greys(stream[0].train.x)[0] == 251


@pytest.mark.parametrize("domain", ["ink", "oil", "pen"])
def test_every_file_counts_in_the_fingerprint(tmp_path: Path, domain: str) -> None:
    options: dict[str, Any] = {"test_domains": ["pen"]}
    one = image_domains(flat(tmp_path / "a"), **options).fingerprint
    assert image_domains(flat(tmp_path / "b"), **options).fingerprint == one
    write(tmp_path / "b" / domain / "hen" / "4.png", 255)
    changed = image_domains(tmp_path / "b", **options).fingerprint
    write(tmp_path / "b" / domain / "hen" / "5.png", 255)
    more = image_domains(tmp_path / "b", **options).fingerprint
    assert len({one, changed, more}) == 3


def test_refuses_what_is_no_folder_of_domains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got no folder .*none"):
        image_domains(tmp_path / "none")
    with pytest.raises(DataError, match="got no folders in"):
        image_domains(tmp_path)
    fill(tmp_path / "plain", 0)
    with pytest.raises(DataError, match=r"no folders in .*plain.cat"):
        image_domains(tmp_path / "plain")
    for part in ("train", "test"):
        fill(tmp_path / "single" / part, 0)
    with pytest.raises(DataError, match=r"only test and train in .*image_folder"):
        image_domains(tmp_path / "single")
    fill(tmp_path / "one" / "ink", 0, each=1)
    with pytest.raises(DataError, match=r"1 of class 'cat' \(in 'ink'\)"):
        image_domains(tmp_path / "one")


def test_loads_by_name_and_goes_into_an_arrangement(tmp_path: Path) -> None:
    flat(tmp_path)
    loaded = load_stream("image_domains", path=tmp_path, tasks=2, seed=3, shuffle=True)
    made = image_domains(tmp_path, tasks=2, seed=3, shuffle=True)
    assert loaded.describe() == made.describe()
    online = load_stream("online", of="image_domains", samples=3, options={"path": str(tmp_path)})
    assert online.scenario == "domain" and len(online) == 9


@pytest.mark.parametrize("shuffle", [False, True])
def test_is_the_stream_of_the_same_arrays(tmp_path: Path, shuffle: bool) -> None:
    split(tmp_path)
    arrays = []
    for domain in ("ink", "oil", "pen"):
        for part in ("train", "test"):
            files = sorted((tmp_path / domain / part).glob("*/*.png"))
            images = np.stack([np.asarray(Image.open(file)) for file in files])
            arrays.append((images, np.array([CLASSES.index(f.parent.name) for f in files])))
    options: dict[str, Any] = {"seed": 2, "validation": 0.3, "shuffle": shuffle}
    domains = [(*arrays[i], *arrays[i + 1]) for i in (0, 2, 4)]
    kwargs: dict[str, Any] = {"names": ["ink", "oil", "pen"], "class_names": CLASSES}
    expected = domain_incremental(domains, name="image_domains", **kwargs, **options)
    found = image_domains(tmp_path, **options)
    described = [{**s.describe(), "fingerprint": ""} for s in (found, expected)]
    assert described[0] == described[1]
    for mine, theirs in zip(found, expected, strict=True):
        for part in ("train", "validation", "test"):
            a, b = getattr(mine, part), getattr(theirs, part)
            assert a.ids.tolist() == b.ids.tolist() and a.y.tolist() == b.y.tolist()
            assert np.array_equal(np.stack(list(a.x)), b.x)
