"""Image folders: layouts, laziness, damaged files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpool.errors import DataError
from cpool.streams import ImagePaths, class_incremental, image_folder


def write(path: Path, value: int = 0, size: tuple[int, int] = (5, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)
    return path


def flat(root: Path, classes: int = 3, each: int = 5) -> Path:
    for c in range(classes):
        for i in range(each):
            write(root / f"class{c}" / f"{i}.png", 10 * c + i)
    return root


def test_flat_layout_draws_a_fixed_test(tmp_path: Path) -> None:
    streams = [image_folder(flat(tmp_path), tasks=3, seed=seed) for seed in (0, 1)]
    for stream in streams:
        assert stream.class_names == ("class0", "class1", "class2")
        assert stream.describe()["test_sizes"] == [1] * 3
        assert stream.describe()["train_sizes"] == [3] * 3
    tests = [sorted(s.joint().test.ids.tolist()) for s in streams]
    assert tests[0] == tests[1] and streams[0].fingerprint == streams[1].fingerprint
    other = image_folder(tmp_path, tasks=3, test_seed=3, test_fraction=0.6)
    assert other.describe()["test_sizes"] == [3] * 3 and other.fingerprint != streams[0].fingerprint
    assert other.joint().test.source == streams[0].joint().test.source
    for task in streams[0]:
        for x, y in task.train:
            assert x.shape == (4, 5, 3) and x.dtype == np.uint8 and x[0, 0, 0] // 10 == y


def test_split_layout(tmp_path: Path) -> None:
    flat(tmp_path / "train")
    flat(tmp_path / "test", each=2)
    stream = image_folder(tmp_path, tasks=1, validation=0)
    assert (len(stream[0].train), len(stream[0].test)) == (15, 6)
    assert sorted(stream[0].test.ids.tolist()) == list(range(15, 21))
    write(tmp_path / "test" / "class3" / "0.png")
    with pytest.raises(DataError, match=r"label 3 \('class3'\) only in test"):
        image_folder(tmp_path)


def test_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one = image_folder(flat(tmp_path / "a"), tasks=2).fingerprint
    assert image_folder(flat(tmp_path / "b"), tasks=2).fingerprint == one
    write(tmp_path / "b" / "class0" / "0.png", 99)
    assert image_folder(tmp_path / "b", tasks=2).fingerprint != one


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    flat(tmp_path)
    for i in range(3):
        write(tmp_path / "train" / f"{i}.png")
    assert "train" in image_folder(tmp_path, tasks=2).class_names


def test_other_files_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "class0" / "notes.txt").write_text("no image")
    (tmp_path / "class0" / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("no folder")
    write(tmp_path / "class0" / "LAST.JPG")
    assert sum(image_folder(tmp_path, tasks=1, validation=0).describe()["train_sizes"]) == 13


def test_class_names_of_numbers_are_in_order_of_value(tmp_path: Path) -> None:
    for c in (2, 10, 1):
        for i in range(2):
            write(tmp_path / str(c) / f"{i}.png", i)
    assert image_folder(tmp_path, tasks=3).class_names == ("1", "2", "10")


def test_refuses_what_is_no_image_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        image_folder(tmp_path / "none")
    with pytest.raises(DataError, match="no folders in"):
        image_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="none in cat"):
        image_folder(tmp_path)
    flat(tmp_path)
    with pytest.raises(DataError, match=r"none for label 0 \('cat'\)"):
        image_folder(tmp_path)
    write(tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match="1 of class 'cat'"):
        image_folder(tmp_path)
    flat(tmp_path / "split" / "train")
    with pytest.raises(DataError, match="with a folder a class"):
        image_folder(tmp_path / "split")


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "class1" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"class1.2\.png.*UnidentifiedImageError"):
        image_folder(tmp_path)
    path = write(tmp_path / "big.png", 3, size=(300, 300))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (99, 99, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"big\.png"):
        ImagePaths([path])[0]
    with pytest.raises(DataError, match="FileNotFoundError"):
        ImagePaths([tmp_path / "none.png"])[0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = ImagePaths([path])[0]
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.flags.writeable
    assert image.min() == 255


def test_transparent_palettes_do_not_warn(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    assert ImagePaths([tmp_path / "p.png"])[0][0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_deep_images_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4), 7).save(tmp_path / "deep.tif")
    with pytest.raises(DataError, match="at most 8 bits"):
        ImagePaths([tmp_path / "deep.tif"])[0]


def test_lists_of_paths_stay_lazy(tmp_path: Path) -> None:
    flat(tmp_path, classes=2)
    files = sorted(tmp_path.glob("*/*.png"))
    stream = class_incremental(files, [0] * 5 + [1] * 5, files, [0] * 5 + [1] * 5, tasks=2)
    x = stream[0].train.x
    assert isinstance(x, ImagePaths) and isinstance(stream.joint().train.x, ImagePaths)
    assert len(x[1:]) == len(x) - 1 and len(list(x)) == len(x)
    assert "files, first" in repr(x) and repr(ImagePaths([])) == "ImagePaths(0 files)"
