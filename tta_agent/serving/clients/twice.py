"""Calls that may be made twice: a connection that lay idle may have been closed meanwhile."""

from __future__ import annotations

from typing import Any

import httpx

# Some servers close a connection after they answered 500, all of them after it lay idle for some time.
_CLOSED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


def send(client: httpx.Client, method: str, path: str, **content: Any) -> httpx.Response:
    """Response to a call; it is made again, once, where the server has closed the connection.

    Raises:
        httpx.HTTPError: it cannot be had.
    """
    try:
        return client.request(method, path, **content)
    except _CLOSED:
        return client.request(method, path, **content)
