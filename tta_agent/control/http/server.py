"""HTTP server in a thread of the agent."""

from __future__ import annotations

import logging

from starlette.applications import Starlette

from tta_agent.core.errors import ConfigError
from tta_agent.web.access import is_loopback
from tta_agent.web.connections import Limits
from tta_agent.web.server import ServerThread, listen

CONNECTIONS = 64
log = logging.getLogger(__name__)


def serve_in_thread(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> ServerThread:
    """Serve in a daemon thread, without handlers for signals: those are the agent's.

    Args:
        app: of `make_app` or `make_health_app`.
        host: address to listen on; one that others can reach needs a token.
        port: 0 takes a free one.

    Raises:
        ConfigError: others could reach it and no token is set, or the address is taken or invalid.
    """
    if not (is_loopback(host) or app.state.may_be_reached):
        raise ConfigError(
            f"TTA_HTTP__HOST={host} lets others command the agent; set TTA_HTTP__TOKEN, or listen on 127.0.0.1"
        )
    server = ServerThread(app, listen(host, port, app.state.settings), host, Limits.of(CONNECTIONS))
    log.info("listening on %s", server.url)
    return server
