"""Logged inputs as samples in the model's layout: whatever datatype, channels first or last, or encoded images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array, Shape
from tta_agent.stream.codecs import checks, images
from tta_agent.stream.codecs.datatypes import BYTES, datatype


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Samples of one request.

    Attributes:
        x: float32 [N, ...] in the model's layout, values as they were logged.
        form: datatype on the wire, and the layout where it was another: `FP32`, `UINT8 NHWC`, `PNG`.
    """

    x: Array
    form: str


def read(x: Array, shape: Shape | None, how: images.ImagePreprocessing) -> SampleBatch:
    """Samples of an input tensor [N, ...].

    Args:
        shape: of one sample as the model takes it; None takes any.

    Raises:
        DecodeError: texts, or another shape.
    """
    if x.dtype == BYTES:
        return _encoded(x, shape, how)
    form = datatype(x.dtype)
    if shape is None or _fits(x.shape[1:], shape):
        return SampleBatch(checks.samples(x, shape), form)
    if x.ndim == 4 and len(shape) == 3 and _fits((x.shape[3], *x.shape[1:3]), shape):
        return SampleBatch(checks.samples(x.transpose(0, 3, 1, 2), shape), f"{form} NHWC")
    return SampleBatch(checks.samples(x, shape), form)


def single(x: Array, shape: Shape | None) -> Array:
    """A sample without the batch axis as a batch of one; a batch as it is."""
    dims = x.ndim if shape is None else len(shape)
    alone = x.ndim == dims or (x.ndim == dims - 1 and shape is not None and shape[0] == 1)
    return x[None] if alone else x


def pixels_of(form: str) -> bool:
    """Whether inputs of this form are pixels 0 .. 255."""
    return form.startswith(("UINT8", *images.MAGIC.values()))


def _encoded(x: Array, shape: Shape | None, how: images.ImagePreprocessing) -> SampleBatch:
    checks.count(x.size, "input_samples")
    if not x.size:
        raise DecodeError("input_empty", "the input holds no image; expected at least 1")
    kinds = {images.kind(one) for one in x.ravel()}
    if None in kinds:
        raise DecodeError("bytes_tensor", "the input is BYTES and holds texts; expected numbers, PNG or JPEG")
    found = [images.pixels(one, shape, how) for one in x.ravel()]
    if len({one.shape for one in found}) > 1:
        raise DecodeError("image_size", "the images of one request have different sizes; expected one size")
    return SampleBatch(np.stack(found).astype(np.float32), " and ".join(sorted(map(str, kinds))))


def _fits(found: tuple[int, ...], wanted: Shape) -> bool:
    if found == wanted:
        return True
    return len(found) == len(wanted) and all(n in (None, have) for have, n in zip(found, wanted, strict=True))
