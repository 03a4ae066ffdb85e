"""Bare images and arrays: a value that is one PNG, JPEG or `.npy` file. The key is the id; there is no answer."""

from __future__ import annotations

from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, images, payloads
from tta_agent.stream.codecs.images import IMAGES, ImagePreprocessing


class EncodedImage:
    """Codec of PNG and JPEG files, each one sample. The time is the record's timestamp.

    Args:
        images: preprocessing of encoded images.
    """

    def __init__(self, images: ImagePreprocessing = IMAGES) -> None:
        self._images = images

    def recognises(self, raw: RawRecord) -> bool:
        """Whether the value begins as PNG or JPEG."""
        return images.kind(raw.value or b"") is not None

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """The sample; see `Codec`."""
        return _samples(raw, "image", bodies.Target(shape, classes, None, self._images))


class NpyFile:
    """Codec of `.npy` files with one sample, or a batch of them."""

    def recognises(self, raw: RawRecord) -> bool:
        """Whether the value begins as a `.npy` file."""
        return (raw.value or b"").startswith(payloads.NPY)

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of the file; see `Codec`."""
        return _samples(raw, "npy", bodies.Target(shape, classes))


def _samples(raw: RawRecord, kind: str, target: bodies.Target) -> list[Item]:
    body = payloads.read(raw.value or b"", target.shape)
    return bodies.items(raw, body, bodies.plain(raw, body, kind), target)
