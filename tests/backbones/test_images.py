"""Raw images to pixel values: as the processors of transformers make them, and fast."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from cpool.backbones.images import prepare
from cpool.errors import BackboneError, DataError
from tests import tiny

SIDES = {"height": 24, "width": 20}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "bilinear": ("ViTImageProcessorPil", {"size": SIDES}),
    "bicubic": ("ViTImageProcessorPil", {"size": SIDES, "resample": 3}),
    "nothing": ("ViTImageProcessorPil", {"do_resize": False, "do_normalize": False}),
    "no rescale": ("ViTImageProcessorPil", {"size": SIDES, "do_rescale": False}),
    "crop": (
        "ViTImageProcessorPil",
        {"size": SIDES, "do_center_crop": True, "crop_size": {"height": 15, "width": 16}},
    ),
    "clip": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}},
    ),
    "crop larger than the image": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 18}, "crop_size": {"height": 31, "width": 26}},
    ),
    "siglip": ("SiglipImageProcessorPil", {"size": SIDES}),
    "beit": ("BeitImageProcessorPil", {"size": SIDES}),
    "deit": (
        "DeiTImageProcessorPil",
        {"size": SIDES, "crop_size": {"height": 14, "width": 14}},
    ),
}


def photos(shape: tuple[int, ...], n: int = 5) -> Any:
    """Return smooth uint8 images with some noise, as photographs have."""
    rng = np.random.default_rng(0)
    coarse = torch.tensor(rng.random((n, shape[-1] if len(shape) == 3 else 1, 6, 6)))
    fine = torch.nn.functional.interpolate(coarse, shape[:2], mode="bicubic").clamp(0, 1)
    image = (fine.permute(0, 2, 3, 1).numpy() * 235 + rng.random((n, *shape[:2], 1)) * 20).astype(
        np.uint8
    )
    return image if len(shape) == 3 else image[..., 0]


@pytest.mark.parametrize("shape", [(40, 50, 3), (13, 11, 3), (24, 20, 3)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_equal_to_the_processor(name: str, shape: tuple[int, ...]) -> None:
    cls, options = PROCESSORS[name]
    processor = getattr(transformers, cls)(**options)
    images = photos(shape)
    expected = processor(images=list(images), return_tensors="pt")["pixel_values"]
    ours = prepare(images, processor)
    assert ours.shape == expected.shape and ours.dtype == torch.float32
    # Two steps of 255, in the units of the output.
    step = (1.0 if processor.do_rescale is False else 1 / 255) / (
        min(processor.image_std) if processor.do_normalize else 1.0
    )
    assert (ours - expected.float()).abs().max() <= 2 * step
    assert (ours - expected.float()).abs().mean() <= 0.2 * step


def test_grey_images_are_repeated() -> None:
    processor, images = tiny.image_processor(), photos((8, 8))
    ours = prepare(images, processor)
    coloured = prepare(np.repeat(images[..., None], 3, -1), processor)
    assert torch.equal(ours, coloured)
    assert torch.equal(prepare(images[..., None], processor), ours)


def test_floats_in_0_1_equal_uint8() -> None:
    processor, images = tiny.image_processor(), photos((10, 12, 3))
    ours = prepare(images.astype(np.float64) / 255, processor)
    assert (ours - prepare(images, processor)).abs().max() <= 2 * 2 / 255


def test_every_form_of_the_same_images(tmp_path: Path) -> None:
    processor, images = tiny.image_processor(), photos((10, 12, 3))
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    expected = prepare(images, processor)
    forms: list[Any] = [
        list(images),
        torch.from_numpy(images),
        [torch.from_numpy(image) for image in images],
        [Image.fromarray(image) for image in images],
        paths,
        [str(path) for path in paths],
    ]
    for form in forms:
        assert torch.equal(prepare(form, processor), expected)


def test_sizes_may_differ_and_order_stays() -> None:
    processor = tiny.image_processor()
    images = [photos((h, w, 3), 1)[0] for h, w in ((10, 12), (30, 9), (10, 12), (16, 16))]
    images[2] = images[2][::-1].copy()
    together = prepare(images, processor)
    for i, image in enumerate(images):
        assert torch.equal(prepare([image], processor)[0], together[i])


def test_read_only_memory(tmp_path: Path) -> None:
    made = photos((8, 8))
    np.save(tmp_path / "x.npy", made)
    mapped = prepare(np.load(tmp_path / "x.npy", mmap_mode="r"), tiny.image_processor())
    assert torch.equal(mapped, prepare(made, tiny.image_processor()))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((0, 8, 8), np.uint8), r"\[n H W\]"),
        ([], r"\[n H W\]"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "channels last"),
        (np.zeros((2, 8, 8, 3), np.int64), "type uint8 .*got int64"),
        (np.zeros((2, 8, 8, 3), bool), "got bool"),
        (np.full((2, 8, 8), 16.0), "values from 16 to 16"),
        (np.full((2, 8, 8), -0.5), "in \\[0, 1\\]"),
        ([np.zeros((8,), np.uint8)], r"shape \(8,\) at position 0"),
        ("image.png", r"\[n H W\]"),
        (["nowhere.png"], "an image file"),
    ],
)
def test_wrong_images(images: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        prepare(images, tiny.image_processor())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value: float) -> None:
    images = np.zeros((3, 8, 8), np.float32)
    images[1, 2, 3] = value
    with pytest.raises(DataError, match="1 images, the first at position 1"):
        prepare(images, tiny.image_processor())


def test_backbone_without_processor() -> None:
    from cpool.backbones import wrap_model

    with pytest.raises(BackboneError, match="a processor"):
        wrap_model(tiny.model("vit")).prepare(photos((8, 8)))


def test_unknown_processors_are_called() -> None:
    class Odd(transformers.ViTImageProcessorPil):  # type: ignore[misc]
        pass

    processor = Odd(size={"max_height": 16, "max_width": 12})
    images = photos((32, 24, 3))
    expected = processor(images=list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepare(images, processor), expected.float())


def test_fast_enough_for_digits() -> None:
    from sklearn.datasets import load_digits

    digits = (load_digits().images[:1437] * 15.9).astype(np.uint8)
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    prepare(digits[:2], processor)
    start = time.perf_counter()
    assert prepare(digits, processor).shape == (1437, 3, 32, 32)
    assert time.perf_counter() - start < 1.0
