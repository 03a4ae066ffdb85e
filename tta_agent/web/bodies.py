"""Bodies of requests and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse


class TooLarge(Exception):
    """A body larger than what is taken."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes, the most that is taken")


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
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit_bytes:
            raise TooLarge(limit_bytes)
        on_bytes(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


class AsciiJSON(JSONResponse):
    """JSON in ASCII: whatever text a client has sent may come back in it, half a surrogate pair too."""

    def render(self, content: Any) -> bytes:
        """As bytes; raises ValueError for numbers that are not finite."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
