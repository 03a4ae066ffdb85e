"""A listening server: in this thread, or in one of its own."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import threading
import time
import types
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette

from tta_agent.core.errors import ConfigError
from tta_agent.web.connections import Connections, LimitedProtocol, Limits
from tta_agent.web.drain import Drain

START_S, STOP_S = 10.0, 5.0
# A client that reuses a connection while the server closes it loses a request, so clients should close first: their
# pools keep idle ones for 5 to 60 s. Idle connections make room where there are many.
KEEP_ALIVE_S = 75
_BACKLOG = 256  # connections that the system accepts in one go: fewer than files can be opened


class DrainingServer(uvicorn.Server):
    """Server that drains at the first SIGTERM and stops at the second, or at SIGINT."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        """Handle a signal."""
        if sig == signal.SIGTERM and not self._drain.begun:
            self._drain.begin()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; asked ten times a second."""
        return await super().on_tick(counter) or self._drain.over


def serve(app: Starlette, listener: socket.socket, limits: Limits, stop_s: float, drain: Drain) -> None:
    """Serve until the process is told to stop; after the drain requests in progress have `stop_s` left."""
    with contextlib.suppress(KeyboardInterrupt):
        DrainingServer(_config(app, limits, stop_s, "on"), drain).run([listener])


def _config(app: Starlette, limits: Limits, stop_s: float, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    protocol: Any = functools.partial(LimitedProtocol, Connections(limits))
    return uvicorn.Config(
        app, http=protocol, ws="none", access_log=False, log_level="error", lifespan=lifespan,
        backlog=_BACKLOG, timeout_graceful_shutdown=int(stop_s), timeout_keep_alive=KEEP_ALIVE_S,
    )  # fmt: skip


class ServerThread:
    """A running server in a daemon thread, without handlers for signals.

    Args:
        listener: of `listen`; closed with the server.
        host: as it was asked for.
    """

    def __init__(self, app: Starlette, listener: socket.socket, host: str, limits: Limits) -> None:
        self._listener, self._server = listener, uvicorn.Server(_config(app, limits, STOP_S, "off"))
        self.host, self.port = host, int(listener.getsockname()[1])
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="tta-http", daemon=True
        )
        self._thread.start()
        deadline_s = time.monotonic() + START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.005)

    @property
    def url(self) -> str:
        """Base address."""
        return address(self.host, self.port)

    def close(self) -> None:
        """Stop after the requests in progress. Idempotent."""
        self._server.should_exit = True
        self._thread.join(STOP_S + 1)
        self._listener.close()


def address(host: str, port: int) -> str:
    """Base address of a server."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int, settings: str) -> socket.socket:
    """A bound socket.

    Args:
        settings: beginning of the variables that name host and port, for messages.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)  # asyncio turns Nagle off only where it says TCP
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise ConfigError(
            f"{settings}HOST={host} {settings}PORT={port} cannot be listened on: {error.strerror}; "
            "choose another port, or 0 for any"
        ) from None
