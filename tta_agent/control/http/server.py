"""HTTP server in a thread of the agent."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette

from tta_agent.core.errors import ConfigError

START_S, STOP_S = 10.0, 5.0
log = logging.getLogger(__name__)


class Server:
    """A running HTTP server."""

    def __init__(self, app: Starlette, listener: socket.socket, host: str) -> None:
        config = uvicorn.Config(
            app, access_log=False, log_level="warning", lifespan="off", limit_concurrency=64,
            timeout_graceful_shutdown=int(STOP_S),
        )  # fmt: skip
        self._listener, self._server = listener, uvicorn.Server(config)
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
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def close(self) -> None:
        """Stop after the requests in progress. Idempotent."""
        self._server.should_exit = True
        self._thread.join(STOP_S + 1)
        self._listener.close()


def serve_in_thread(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Serve in a daemon thread, without handlers for signals: those are the agent's.

    Args:
        app: of `make_app`.
        host: address to listen on; one that others can reach needs a token.
        port: 0 takes a free one.

    Raises:
        ConfigError: others could reach it and no token is set, or the address is taken or invalid.
    """
    if not (is_loopback(host) or app.state.has_token):
        raise ConfigError(
            f"TTA_HTTP__HOST={host} lets others command the agent; set TTA_HTTP__TOKEN, or listen on 127.0.0.1"
        )
    server = Server(app, _listen(host, port), host)
    log.info("listening on %s", server.url)
    return server


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)  # asyncio turns Nagle off only where it says TCP
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise ConfigError(
            f"TTA_HTTP__HOST={host} TTA_HTTP__PORT={port} cannot be listened on: {error.strerror}; "
            "choose another port, or 0 for any"
        ) from None
