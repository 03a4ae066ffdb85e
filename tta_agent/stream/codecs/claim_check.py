"""Claim check: a small JSON record that names the file of its input, `{"id", "data_ref", ...}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs import bodies, oip, payloads
from tta_agent.stream.codecs.datatypes import show
from tta_agent.stream.codecs.downloads import Downloads
from tta_agent.stream.codecs.images import IMAGES, ImagePreprocessing

MAX_BYTES = 16 << 20
TIMEOUT_S = 10.0


class ClaimCheck(bodies.TensorCodec):
    """Codec of records whose input lies in an object store, or on a disk.

    `data_ref` is any URL that fsspec opens. The file is a `.npy`, PNG or JPEG file, or an Open Inference Protocol
    body, JSON or with raw tensors. Outputs, id and version stand in the record, or in the body that the file holds.

    Args:
        output, images: as of every codec of tensors.
        allow: prefixes of URLs that may be read, for instance `s3://bucket/inferences/`; without any, none may.
        max_bytes: largest file that is read.
        storage: options of fsspec for the file system, for instance {"anon": true}.
        timeout_s: longest wait for a file; a record whose file does not come is a dead letter.
    """

    def __init__(
        self,
        output: str | None = None,
        images: ImagePreprocessing = IMAGES,
        allow: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        storage: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(output, images)
        self._allow, self._max_bytes, self._storage = _prefixes(allow), max_bytes, dict(storage or {})
        self._downloads = Downloads(timeout_s)

    def recognises(self, raw: RawRecord) -> bool:
        """Whether it is a JSON object with a `data_ref`."""
        value = raw.value or b""
        return value[:64].lstrip()[:1] == b"{" and b'"data_ref"' in value

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> list[Item]:
        """Samples of the file that the record names; see `Codec`."""
        said, head = _record(raw.value or b"")
        found = payloads.read(self._fetched(said), shape)
        body = oip.Body(
            found.inputs, head.outputs or found.outputs, head.id or found.id, head.model or found.model,
            head.version or found.version,
        )  # fmt: skip
        target = self._target(shape, classes)
        about = bodies.plain(raw, body, "claim_check")
        return bodies.items(raw, body, replace(about, source=about.source or "claim_check"), target)

    def _fetched(self, url: str) -> bytes:
        """Content of the file.

        Raises:
            DecodeError: it may not be read, is too large, or does not come.
        """
        self._refuse_foreign(url)
        try:
            content = self._downloads.run(lambda: self._read(url), show(url))
        except DecodeError:
            raise
        except Exception as error:  # whatever the file system of that protocol raises
            raise DecodeError("data_ref", f"{show(url)} cannot be read: {error}") from error
        if len(content) > self._max_bytes:
            raise DecodeError(
                "data_ref_large", f"{show(url)} has over {self._max_bytes} bytes; see max_bytes"
            )
        return content

    def _read(self, url: str) -> bytes:
        import fsspec

        with fsspec.open(url, "rb", **self._storage) as file:
            content: bytes = file.read(self._max_bytes + 1)
        return content

    def _refuse_foreign(self, url: str) -> None:
        parts = unquote(url).replace("\\", "/").split("/")
        if "::" in url or ".." in parts or not url.startswith(self._allow):
            raise DecodeError(
                "data_ref_prefix",
                f'{show(url)} may not be read; TTA_STREAM__OPTIONS=\'{{"claim_check": {{"allow": [...]}}}}\' names '
                f"prefixes that may: {', '.join(self._allow) or 'none yet'}",
            )


def _prefixes(allow: Sequence[str]) -> tuple[str, ...]:
    if isinstance(allow, str) or not all(isinstance(one, str) and "/" in one for one in allow):
        raise ValueError(f"allow is {allow!r}; expected a list of prefixes such as s3://bucket/inferences/")
    return tuple(one if one.endswith("/") else f"{one}/" for one in allow)


def _record(value: bytes) -> tuple[str, oip.Body]:
    """The URL, and what else the record says."""
    body = oip.decode(value, len(value))
    try:
        url = json.loads(value).get("data_ref")
    except ValueError as error:
        raise DecodeError("json", f"the record is not JSON: {error}") from error
    if not isinstance(url, str) or not 0 < len(url) <= 2048:
        raise DecodeError("data_ref", f"data_ref is {show(url)}; expected a URL")
    return url, body
