"""Probes: whether the process lives, and whether the agent has joined the stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from tta_agent.web.bodies import AsciiJSON

Status: TypeAlias = Callable[[], Mapping[str, Any]]


class Health:
    """Handlers of the probes.

    Args:
        status: current status.
    """

    def __init__(self, status: Status) -> None:
        self._status, self._began_s = status, time.time()

    async def alive(self, request: Request) -> AsciiJSON:
        """Answer that the process is alive."""
        return AsciiJSON({"alive": True})

    async def ready(self, request: Request) -> AsciiJSON:
        """Answer whether the agent has joined the stream."""
        status = self._status()  # a file may be the last word of an agent that has ended
        ready = status.get("ready") is True and status.get("time", self._began_s) >= self._began_s
        why = {"reason": status["reason"]} if not ready and status.get("reason") else {}
        return AsciiJSON({"ready": ready, **why}, 200 if ready else 503)


def make_health_app(status: Status) -> Starlette:
    """Make an application of the probes alone: no request takes long, so that a flood of others does not end them."""
    health = Health(status)
    paths = {"/healthz": health.alive, "/readyz": health.ready}
    app = Starlette(routes=[Route(path, handler, methods=["GET"]) for path, handler in paths.items()])
    app.state.may_be_reached, app.state.settings = True, "TTA_HTTP__HEALTH_"
    return app
