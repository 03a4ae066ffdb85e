"""Limits of connections: how many there are, and how long a client may keep the server waiting.

uvicorn has no time limit for the head of a request, and its limit of concurrency refuses everybody once a few hundred
connections lie idle. Here a new connection takes the place of the one that has been waited for longest.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_SPARE_FILES = 128  # for everything that is no connection


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server.

    Attributes:
        connections: open ones in all.
        per_client: open ones of one address.
        head_s: longest wait for the head of a request, from the start of the connection or its first byte.
        write_s: longest wait for a client that does not read its answer.
        unread_bytes: of answers that clients have not read, in all.
    """

    connections: int = 512
    per_client: int = 256
    head_s: float = 10.0
    write_s: float = 30.0
    unread_bytes: int = 256 << 20

    @classmethod
    def of(cls, connections: int) -> Limits:
        """So many connections, fewer where the process may not open as many files; one client has half of them."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = connections if files == resource.RLIM_INFINITY else min(connections, files - _SPARE_FILES)
        most = max(most, 8)
        return cls(most, max(most // 2, 4))


class ConnectionPhase(IntEnum):
    """State of a connection; the order in which connections make room."""

    HEAD = 0  # the client has not sent a whole head
    BODY = 1  # the client has not sent the whole body
    BUSY = 2  # the server works


class Connections:
    """Open connections of one server. Not thread-safe: its event loop owns it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._by_client: dict[str, set[LimitedProtocol]] = {}
        self._count = 0

    def admit(self, new: LimitedProtocol) -> bool:
        """Take in a connection; False where there are too many, all of which the server works for."""
        of_client = self._by_client.get(new.address, set())
        if len(of_client) >= self.limits.per_client and not _drop_one(of_client):
            return False
        if self._count >= self.limits.connections and not _drop_one(set().union(*self._by_client.values())):
            return False
        self._by_client.setdefault(new.address, set()).add(new)
        self._count += 1
        return True

    def on_unread(self, new: LimitedProtocol) -> None:
        """Keep unread answers within the limit: the connection that has been waited for longest goes first."""
        unread = {one for one in set().union(*self._by_client.values()) if one.unread_bytes}
        while sum(one.unread_bytes for one in unread) > self.limits.unread_bytes and unread - {new}:
            oldest = min(unread - {new}, key=lambda one: one.since_s)
            unread.remove(oldest)
            oldest.drop()

    def remove(self, old: LimitedProtocol) -> None:
        """Forget a connection. Idempotent."""
        of_client = self._by_client.get(old.address, set())
        if old in of_client:
            of_client.remove(old)
            self._count -= 1
        if not of_client:
            self._by_client.pop(old.address, None)


def _drop_one(some: Iterable[LimitedProtocol]) -> bool:
    """Close the connection that has been waited for longest; False where none is waited for."""
    waiting = [one for one in some if one.phase != ConnectionPhase.BUSY]
    if waiting:
        min(waiting, key=lambda one: (one.phase, one.since_s)).drop()
    return bool(waiting)


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 within `Limits`.

    Args:
        open: connections of the server.
    """

    def __init__(
        self,
        open: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._open, self.address, self.since_s = open, "", 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def phase(self) -> ConnectionPhase:
        """What is waited for."""
        if self.cycle is None or self.cycle.response_complete:
            return ConnectionPhase.HEAD
        return ConnectionPhase.BODY if self.cycle.more_body else ConnectionPhase.BUSY

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that the client has not read."""
        return self.transport.get_write_buffer_size()

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        self._open.remove(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        super().connection_made(transport)
        self.address, self.since_s = self.client[0] if self.client else "", self.loop.time()
        if self._open.admit(self):
            self._watch_head()
        else:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._open.remove(self)
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time for a head runs from its first one."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request; uvicorn closes the connection where none begins."""
        self.since_s = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._open.limits.write_s, self.drop)
        self._open.on_unread(self)

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    def _watch_head(self) -> None:
        if self.phase != ConnectionPhase.HEAD or self.transport.is_closing():
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._open.limits.head_s, self._on_late_head)

    def _on_late_head(self) -> None:
        self._head_timer = None
        if self.phase != ConnectionPhase.HEAD or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"no whole request within {self._open.limits.head_s:g} s")
        else:
            self.drop()

    def _refuse(self, status: int, text: str) -> None:
        headers = [
            ("content-type", "text/plain"),
            ("content-length", str(len(text))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers), h11.Data(data=text.encode()), h11.EndOfMessage()
        ):  # fmt: skip
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
