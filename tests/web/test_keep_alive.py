"""Idle connections: a client's pool closes them before the server does, so that no request meets the end of one."""

from __future__ import annotations

import time
from contextlib import closing

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tta_agent.web.connections import Limits
from tta_agent.web.server import ServerThread, listen

POOL_S = 5.0  # httpx keeps idle connections for so long, as uvicorn does by default


def test_an_idle_connection_outlives_the_pools_of_clients() -> None:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("yes"))])
    server = ServerThread(app, listen("127.0.0.1", 0, "TTA_HTTP__"), "127.0.0.1", Limits.of(16))
    limits = httpx.Limits(keepalive_expiry=None)
    with closing(server), httpx.Client(base_url=server.url, limits=limits, trust_env=False) as client:
        ports = set()
        for pause_s in (0.0, POOL_S + 1.0):
            time.sleep(pause_s)
            response = client.get("/")
            assert response.text == "yes"
            ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(ports) == 1, "the connection was made anew"
