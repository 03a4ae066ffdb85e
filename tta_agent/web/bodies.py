"""Bodies of requests and answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from tta_agent.web import compression


class TooLarge(Exception):
    """A body larger than what is taken; `inflated`: after it is decompressed."""

    def __init__(self, limit_bytes: int, *, inflated: bool = False) -> None:
        self.inflated = inflated
        larger = "larger when it is decompressed than" if inflated else "larger than"
        super().__init__(f"the body is {larger} {limit_bytes} bytes, the most that is taken")


async def read(request: Request, limit_bytes: int, on_bytes: Callable[[int], None] = lambda n: None) -> bytes:
    """Whole body of a request. How long that may take is the caller's `asyncio.timeout`.

    Args:
        on_bytes: called with the size of each piece before it is kept; may raise.

    Raises:
        TooLarge: it is larger than `limit_bytes`, or says so.
        ClientDisconnect: the client has gone.
    """
    if int(request.headers.get("content-length", "0")[:20]) > limit_bytes:
        raise TooLarge(limit_bytes)
    return await _joined(request.stream(), limit_bytes, on_bytes, TooLarge(limit_bytes))


async def read_inflated(request: Request, limit_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    """As `read`, of a body that may be compressed: sizes and limit are those after decompression.

    Raises:
        HTTPException: 415, 400, it is compressed in another way than gzip or deflate, or not as it says.
    """
    if not compression.is_compressed(request):
        return await read(request, limit_bytes, on_bytes)
    pieces, refusal = compression.inflated(request.stream()), TooLarge(limit_bytes, inflated=True)
    return await _joined(pieces, limit_bytes, on_bytes, refusal)


async def _joined(
    stream: AsyncIterator[bytes], limit_bytes: int, on_bytes: Callable[[int], None], refusal: TooLarge
) -> bytes:
    pieces, size = [], 0
    async for piece in stream:
        size += len(piece)
        if size > limit_bytes:
            raise refusal
        on_bytes(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


class AsciiJSON(JSONResponse):
    """JSON in ASCII: whatever text a client has sent may come back in it, half a surrogate pair too."""

    def render(self, content: Any) -> bytes:
        """As bytes; raises ValueError for numbers that are not finite."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
