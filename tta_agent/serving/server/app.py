"""REST API: Open Inference Protocol v2 with the binary tensor and model repository extensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from tta_agent.core.types import Version
from tta_agent.models.ort_sessions import HotSwapSession, Session, open_session
from tta_agent.serving.server.engine import Engine
from tta_agent.serving.server.repository import Repository
from tta_agent.serving.server.rest import Handler, Rest, guarded, http_error
from tta_agent.serving.server.tap import Tap

_MAX_WAITING = 1024  # requests in flight; beyond it the server answers 503 rather than grow


def make_app(
    model: str,
    pair: HotSwapSession,
    find_version: Callable[[int], Version],
    *,
    open: Callable[[Path], Session] = open_session,
    tap: Tap | None = None,
    input_name: str = "input",
    output_name: str = "logits",
    threads: int = 2,
    max_body_bytes: int = 64 << 20,
) -> Starlette:
    """Make the server as an ASGI application.

    Args:
        model: name in the URLs.
        pair: sessions, with the version to begin with.
        find_version: version by its number; raises RegistryError where there is none.
        open: makes a session of a file.
        tap: log of inferences, probes left out; closed with the application.
        input_name, output_name: names of the tensors, whatever the graph calls them.
        threads: requests that are answered at a time.
        max_body_bytes: largest request.
    """
    engine = Engine(model, pair, input_name, output_name)
    repository = Repository(model, pair, find_version, open)
    rest = Rest(engine, repository, tap, threads, max_body_bytes)
    return Starlette(
        routes=_routes(rest),
        lifespan=rest.lifespan,
        exception_handlers={HTTPException: http_error},  # unknown paths and methods
    )


def serve(app: Starlette, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve until the process is told to stop."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        limit_concurrency=_MAX_WAITING,
        timeout_graceful_shutdown=10,
    )


def _routes(rest: Rest) -> list[Route]:
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{number:int}"
    gets: Mapping[str, Handler] = {
        "/v2": rest.about,
        "/v2/stats": rest.stats,
        "/v2/health/live": rest.is_live,
        "/v2/health/ready": rest.is_ready,
        model: rest.metadata,
        f"{model}/ready": rest.ready,
        version: rest.metadata,
        f"{version}/ready": rest.ready,
    }
    post_routes: Mapping[str, Handler] = {
        "/v2/repository/index": rest.index,
        "/v2/repository/models/{model}/load": rest.load,
    }
    routes = [Route(path, partial(guarded, handler), methods=["GET"]) for path, handler in gets.items()]
    routes += [
        Route(path, partial(guarded, handler), methods=["POST"]) for path, handler in post_routes.items()
    ]
    return routes + [Route(f"{path}/infer", rest.infer, methods=["POST"]) for path in (model, version)]
