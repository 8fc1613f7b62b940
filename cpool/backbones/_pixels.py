"""What an image processor does to pixels, over whole arrays at once."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

__all__ = ["Settings", "by_processor"]

_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # PIL's numbers of filters


class Settings:
    """The settings of a processor that this module can follow."""

    def __init__(self, processor: Any) -> None:
        def get(name: str, default: Any = None) -> Any:
            value = getattr(processor, name, default)
            return default if value is None else value

        self.size = _sizes(get("size")) if get("do_resize", False) else None
        self.crop = _sizes(get("crop_size")) if get("do_center_crop", False) else None
        self.mode = _MODES.get(int(get("resample", 2)))
        self.factor = float(get("rescale_factor", 1 / 255)) if get("do_rescale", True) else 1.0
        self.mean = self.std = None
        if get("do_normalize", False):
            self.mean, self.std = (_column(get(key)) for key in ("image_mean", "image_std"))
        fixed = self.size is None or {"height", "width"} == set(self.size)
        self.plain = (
            (fixed or (self.size is not None and set(self.size) == {"shortest_edge"}))
            and self.mode is not None
            and not get("do_pad", False)
            and (self.crop is None or {"height", "width"} == set(self.crop))
            and not get("do_reduce_labels", False)
            and not get("do_flip_channel_order", False)
        )

    def __call__(self, pixels: Num[Tensor, "n c H W"]) -> Float[Tensor, "n C h w"]:
        """Resize, crop, rescale and normalise."""
        whole = pixels.dtype == torch.uint8
        if self.size is not None:
            pixels = self._resize(pixels)
        if self.crop is not None:
            pixels = _center_crop(pixels, self.crop["height"], self.crop["width"])
        # Floats are already in [0, 1], which is what rescaling makes of uint8.
        values = pixels.float() * self.factor if whole else pixels.float()
        if self.mean is not None and self.std is not None:
            values = (values - self.mean) / self.std
        return values

    def _resize(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        assert self.size is not None and self.mode is not None
        if "shortest_edge" in self.size:
            short = self.size["shortest_edge"]
            target = (
                (short, int(short * width / height))
                if height <= width
                else (int(short * height / width), short)
            )
        else:
            target = (self.size["height"], self.size["width"])
        if target == (height, width):
            return pixels
        # The uint8 kernel rounds after each direction, as PIL does.
        smooth = self.mode != "nearest-exact"
        resized = F.interpolate(pixels, target, mode=self.mode, antialias=smooth)
        return resized if resized.dtype == torch.uint8 else resized.clamp(0, 1)


def _sizes(size: Any) -> dict[str, int] | None:
    if size is None:
        return None
    if isinstance(size, int):
        return {"height": size, "width": size}
    if not isinstance(size, dict):  # SizeDict of transformers
        size = {k: getattr(size, k, None) for k in ("height", "width", "shortest_edge")} | {
            k: v for k in ("longest_edge", "max_height") if (v := getattr(size, k, None))
        }
    return {key: int(value) for key, value in size.items() if value is not None}


def _column(values: Any) -> Tensor:
    values = [values] if isinstance(values, (int, float)) else list(values)
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


def _center_crop(pixels: Tensor, height: int, width: int) -> Tensor:
    missing_h, missing_w = height - pixels.shape[2], width - pixels.shape[3]
    # Smaller images are padded with black first, the extra row and column in front.
    over = (max(missing_w, 0), max(missing_h, 0))
    if any(over):
        w, h = over
        pixels = F.pad(pixels, ((w + 1) // 2, w // 2, (h + 1) // 2, h // 2))
    top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
    return pixels[:, :, top : top + height, left : left + width]


def by_processor(pixels: Num[Tensor, "n c H W"], processor: Any) -> Float[Tensor, "n C h w"]:
    """Call a processor whose settings are not followed here."""
    images: Sequence[Any] = list(pixels.expand(-1, 3, -1, -1).numpy())
    options: dict[str, Any] = {} if pixels.dtype == torch.uint8 else {"do_rescale": False}
    made = processor(
        images=images, return_tensors="pt", input_data_format="channels_first", **options
    )
    values: Tensor = made["pixel_values"]
    return values
