"""REST API: Open Inference Protocol v2 with the extensions that `GET /v2` names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from tta_agent.core.types import Version
from tta_agent.models.ort_sessions import HotSwapSession, Session, open_session
from tta_agent.models.patched_graph import PatchedGraph
from tta_agent.registry.patches import Patch
from tta_agent.serving.server.answers import Handler, guarded, http_error, refusal
from tta_agent.serving.server.batching import Batching
from tta_agent.serving.server.engine import Engine
from tta_agent.serving.server.inference import Inference
from tta_agent.serving.server.loads import Loads
from tta_agent.serving.server.repository import Repository
from tta_agent.serving.server.rest import Rest
from tta_agent.serving.server.warming import Warmth
from tta_agent.tap import Tap
from tta_agent.telemetry.server import ServerTelemetry
from tta_agent.web import server
from tta_agent.web.access import Guard, OwnHosts
from tta_agent.web.connections import Limits
from tta_agent.web.drain import Drain

_STOP_S = 10.0  # for requests in progress, at the end
ALONE, SILENT = Batching(), ServerTelemetry.off()
OWN = OwnHosts(setting="TTA_SERVE__HOSTS")


def make_app(
    model: str,
    pair: HotSwapSession,
    find_version: Callable[[int], Version],
    *,
    open: Callable[[Path | PatchedGraph], Session] = open_session,
    find_patch: Callable[[int], Patch | None] = lambda number: None,
    tap: Tap | None = None,
    input_name: str = "input",
    output_name: str = "logits",
    threads: int = 2,
    max_body_bytes: int = 64 << 20,
    max_batch: int = 256,
    memory_bytes: int = 256 << 20,
    batching: Batching = ALONE,
    telemetry: ServerTelemetry = SILENT,
    drain_s: float = 0.0,
    token: str | None = None,
    hosts: OwnHosts = OWN,
) -> Starlette:
    """Make the server as an ASGI application.

    Args:
        model: name in the URLs.
        pair: sessions, with the version to begin with.
        find_version: version by its number; raises RegistryError where there is none.
        open: makes a session of a file, or of a patch.
        find_patch: version by its number as version 0 with other tensors, where it is kept so.
        tap: log of inferences, probes left out; closed with the application.
        input_name, output_name: names of the tensors, whatever the graph calls them.
        threads: requests that are answered at a time.
        max_body_bytes: largest request.
        max_batch: most samples of one request.
        memory_bytes: for the bodies of all requests in flight, see `admission`.
        batching: how requests are joined.
        telemetry: spans and metrics, `/metrics` among them; its owner shuts it down.
        drain_s: it goes on answering for so long after it has been told to stop.
        token: bearer token of the repository API; None: none is asked for.
        hosts: names under which the server may be asked.
    """
    drain = Drain(drain_s)
    warmth = Warmth()
    engine = Engine(model, pair, warmth, input_name, output_name, max_batch)
    repository = Repository(model, pair, find_version, open, find_patch, warmth)
    inference = Inference(engine, tap, threads, max_body_bytes, memory_bytes, batching, telemetry, drain)
    loads = Loads(model, repository, token, telemetry)
    rest = Rest(engine, repository, inference, telemetry)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        loads.close()
        inference.close()

    app = Starlette(
        routes=_routes(inference, rest, loads),
        lifespan=lifespan,
        middleware=[Middleware(Guard, hosts=hosts, refuse=refusal)],
        exception_handlers={HTTPException: http_error},  # unknown paths and methods
    )
    app.state.drain = drain
    return app


def serve(app: Starlette, host: str = "127.0.0.1", port: int = 8080, connections: int = 512) -> None:
    """Serve until the process is told to stop: SIGTERM drains, a second one or SIGINT stops.

    Args:
        app: of `make_app`.
        connections: open ones in all; one address has half of them at most.

    Raises:
        ConfigError: the address cannot be had.
    """
    listener = server.listen(host, port, "TTA_SERVE__")
    server.serve(app, listener, Limits.of(connections), _STOP_S, app.state.drain)


def _routes(inference: Inference, rest: Rest, loads: Loads) -> list[Route]:
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{number}"
    gets: Mapping[str, Handler] = {
        "/v2": rest.about,
        "/v2/stats": rest.stats,
        "/metrics": rest.metrics,
        "/v2/health/live": rest.is_live,
        "/v2/health/ready": rest.is_ready,
        "/v2/models/stats": rest.statistics,  # before the model: as in Triton, none can have this name
    }
    of_model: Mapping[str, Handler] = {
        "": rest.metadata, "/ready": rest.ready, "/config": rest.config, "/stats": rest.statistics
    }  # fmt: skip
    gets = {**gets, **{path + end: handler for path in (model, version) for end, handler in of_model.items()}}
    post_routes: Mapping[str, Handler] = {
        "/v2/repository/index": loads.index,
        "/v2/repository/models/{model}/load": loads.load,
        "/v2/repository/models/{model}/unload": loads.unload,
    }
    routes = [Route(path, partial(guarded, handler), methods=["GET"]) for path, handler in gets.items()]
    routes += [
        Route(path, partial(guarded, handler), methods=["POST"]) for path, handler in post_routes.items()
    ]
    return routes + [Route(f"{path}/infer", inference.infer, methods=["POST"]) for path in (model, version)]
