"""Compressed bodies of HTTP: requests are inflated within a bound, answers compressed where they shrink."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request

PIECE_BYTES = 64 << 10  # inflated at a time: less than a millisecond of the event loop
SMALLEST_BYTES = 1 << 10  # an answer below it fits into a packet or two as it is
_LEVEL = 1  # the next ones take twice the time for a tenth of the size
_SAMPLE_BYTES, _SHRINKS_TO = 4 << 10, 0.8  # raw float32 stays above 0.9, JSON falls below 0.5
_CODINGS = {"gzip", "x-gzip", "deflate"}
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def is_compressed(request: Request) -> bool:
    """Whether the body of a request is compressed.

    Raises:
        HTTPException: 415, in another way than gzip or deflate.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {*_CODINGS, "identity", ""}:
        told = f"content-encoding is {coding[:40]!r}; expected gzip, deflate or none"
        raise HTTPException(415, told, {"accept-encoding": "gzip, deflate"})
    return coding in _CODINGS


async def inflated(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Inflate a body in pieces of `PIECE_BYTES` at most; other requests have their turn between two of them.

    Raises:
        HTTPException: 400, it is no gzip or zlib stream, or ends early, or goes on after its end.
    """
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    async for piece in pieces:
        while piece:
            if stream.eof:
                raise _broken("bytes follow its end")
            yield _inflate(stream, piece)
            piece = stream.unconsumed_tail or stream.unused_data
            await asyncio.sleep(0)
    yield stream.flush()  # at most one match of the window: all input is consumed
    if not stream.eof:
        raise _broken("it ends early")


def _inflate(stream: zlib._Decompress, piece: bytes) -> bytes:
    try:
        return stream.decompress(piece, PIECE_BYTES)
    except zlib.error as error:
        raise _broken(str(error)) from None


def _broken(why: str) -> HTTPException:
    return HTTPException(400, f"the body cannot be decompressed: {why}; expected gzip or zlib (deflate)")


def takes_gzip(accepted: str | None) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    quality = {"*": "0"}
    for entry in (accepted or "").lower().split(","):
        coding, _, parameter = entry.partition(";")
        quality[coding.strip()] = parameter.replace(" ", "").removeprefix("q=") or "1"
    return quality.get("gzip", quality["*"]).strip("0.") != ""


def compressed(body: bytes) -> bytes | None:
    """Body as gzip, or None where it is small or hardly shrinks, judged by a sample."""
    if len(body) < SMALLEST_BYTES:
        return None
    middle = body[len(body) // 2 :][:_SAMPLE_BYTES]  # the JSON head of raw tensors shrinks, they do not
    if len(zlib.compress(middle, _LEVEL)) > _SHRINKS_TO * len(middle):
        return None
    return gzip.compress(body, _LEVEL)
