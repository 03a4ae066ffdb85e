"""Encoded images to pixels of the model's size, as torchvision and timm prepare images for evaluation."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array, Shape

MAGIC: Mapping[bytes, str] = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
MAX_PIXELS = 1 << 26  # of one encoded image, before it is decoded
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """From an image of any size to the size that the model takes. The fields are those of timm's data config.

    Attributes:
        crop_pct: the shorter side becomes the model's size divided by it; None refuses images of another size.
        crop_mode: `center` cuts the model's size out of the middle, `squash` resizes both sides to it.
        interpolation: of the resizing.
        input_size, mean, std: of a timm data config; they are not read here, but from TTA_MODEL__INPUT_SHAPE,
            TTA_MODEL__MEAN and TTA_MODEL__STD.
    """

    crop_pct: float | None = None
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Interpolation = "bicubic"
    input_size: Sequence[int] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Refuse values that no image could be prepared with (ValueError)."""
        if self.crop_pct is not None and not 0 < self.crop_pct <= 2:
            raise ValueError(
                f"crop_pct is {self.crop_pct!r}; expected above 0 and at most 2, for instance 0.875"
            )
        if self.crop_mode not in ("center", "squash"):
            raise ValueError(f"crop_mode is {self.crop_mode!r}; valid: center, squash")
        if self.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
            raise ValueError(
                f"interpolation is {self.interpolation!r}; valid: bicubic, bilinear, lanczos, nearest"
            )


IMAGES = ImagePreprocessing()  # of the model's size already


def kind(data: bytes) -> str | None:
    """PNG or JPEG, by the first bytes; None for anything else."""
    return next((name for magic, name in MAGIC.items() if data[: len(magic)] == magic), None)


def pixels(data: bytes, shape: Shape | None, how: ImagePreprocessing) -> Array:
    """Pixels of one encoded image, uint8 [channels, height, width].

    Args:
        shape: of a sample as the model takes it; None leaves the image as it is.

    Raises:
        DecodeError: no image, damaged, too large, or of another size that is not to be changed.
    """
    if kind(data) is None:
        raise DecodeError("image", f"the image begins {data[:8]!r}; expected PNG or JPEG")
    channels, size = _wanted(shape)
    try:
        with Image.open(io.BytesIO(data), formats=tuple(MAGIC.values())) as image:
            _refuse_large(image.size)
            plain = image.convert(
                _MODES[channels] if channels else "L" if image.mode in ("1", "L") else "RGB"
            )
    except DecodeError:
        raise
    except Exception as error:  # the readers of damaged files raise what they meet first
        raise DecodeError("image", f"the image cannot be read: {error}") from error
    array = np.asarray(_sized(plain, size, how))
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _wanted(shape: Shape | None) -> tuple[int | None, tuple[int, int] | None]:
    """Channels, and (height, width), as far as the model fixes them."""
    if shape is None:
        return None, None
    if len(shape) != 3 or shape[0] not in (*_MODES, None):
        raise DecodeError(
            "image_shape", f"the model takes {list(shape)}; an image is [1, 3 or 4, height, width]"
        )
    channels, height, width = shape
    return channels, None if height is None or width is None else (height, width)


def _refuse_large(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise DecodeError(
            "image_large", f"the image has {size[0]} x {size[1]} pixels; expected {MAX_PIXELS} at most"
        )


def _sized(image: Image.Image, wanted: tuple[int, int] | None, how: ImagePreprocessing) -> Image.Image:
    width, height = image.size
    if wanted is None or (height, width) == wanted:
        return image
    if how.crop_pct is None:
        raise DecodeError(
            "image_size",
            f"the image is {height} x {width}, the model takes {wanted[0]} x {wanted[1]}; say how it is resized: "
            'TTA_STREAM__OPTIONS=\'{"image": {"crop_pct": 0.875, "interpolation": "bicubic"}}\'',
        )
    filter = Image.Resampling[how.interpolation.upper()]
    scaled = tuple(math.floor(n / how.crop_pct) for n in wanted)
    if how.crop_mode == "squash":
        return _cut(image.resize((scaled[1], scaled[0]), filter), wanted)
    ratio = max(scaled[0] / height, scaled[1] / width)
    size = [max(int(n * ratio), least) for n, least in ((width, wanted[1]), (height, wanted[0]))]
    _refuse_large((size[0], size[1]))
    return _cut(image.resize((size[0], size[1]), filter), wanted)


def _cut(image: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """The middle of an image; a larger frame than the image is filled with black."""
    top, left = (round((have - want) / 2) for have, want in zip(reversed(image.size), wanted, strict=True))
    return image.crop((left, top, left + wanted[1], top + wanted[0]))
