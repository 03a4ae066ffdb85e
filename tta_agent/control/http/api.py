"""HTTP interface of the agent: status, versions, events, and commands.

    GET  /healthz  /readyz  /metrics
    GET  /v1/status  /v1/versions  /v1/versions/{number or alias}  /v1/labels  /v1/events?limit=
    POST /v1/approve  /v1/reject  /v1/rollback  /v1/freeze  /v1/unfreeze  /v1/reset

A command goes into the inbox and is answered with 202: the agent carries it out within a second.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tta_agent.control.commands import KINDS, Command, CommandInbox, Kind, awaiting, read_status
from tta_agent.control.http import problems
from tta_agent.control.http.health import Health, Status
from tta_agent.control.http.problems import Problem
from tta_agent.core.errors import ConfigError, TtaError, nearest
from tta_agent.web import bodies
from tta_agent.web.access import Guard, OwnHosts
from tta_agent.web.bodies import AsciiJSON, TooLarge

MAX_BODY_BYTES = 1 << 16
BODY_S = 10.0  # longest wait for the body of a command
MAX_DIGITS = 18  # of a version
MAX_EVENTS = 1000
_TAIL_BYTES = 8 << 20  # of the events, read from the end
OWN = OwnHosts()
_FIELDS = ("version", "by", "reason")
Counts: TypeAlias = Callable[[], tuple[Mapping[str, int], Mapping[int, Mapping[str, float]]]]
Exposition: TypeAlias = Callable[[], bytes | None]


class Versions(Protocol):
    """Part of the registry that the interface reads."""

    def rows(self) -> list[dict[str, Any]]:
        """Rows of all versions, one each."""

    def manifest(self, number: int) -> dict[str, Any]:
        """Manifest of a version: its origin."""

    def verdict(self, number: int) -> dict[str, Any]:
        """Verdict on a version: how its evaluation ended."""

    def aliases(self) -> dict[str, int | None]:
        """Version number of each alias."""


class Api:
    """Handlers of the interface. Those that read files run in a pool of threads.

    Args:
        store: the agent's folder.
        versions: its registry.
        token: bearer token that commands must carry; None lets this machine command without.
        status: current status.
        labels: counts in all and by version; None where there are none.
        metrics: in the text format of Prometheus; None where they are not kept.
    """

    def __init__(
        self,
        store: Path,
        versions: Versions,
        token: str | None,
        status: Status,
        labels: Counts | None = None,
        metrics: Exposition = lambda: None,
    ) -> None:
        self._metrics = metrics
        self._store, self._versions, self._token, self._labels = store, versions, token, labels
        self._status, self._inbox = status, CommandInbox(store)

    def status(self, request: Request) -> AsciiJSON:
        """Current status, whether swaps are frozen, and the version that awaits approval."""
        status = self._status()
        return _json({**status, "frozen": self._inbox.frozen(), "awaiting": awaiting(status)})

    def versions(self, request: Request) -> AsciiJSON:
        """List all versions, with reasons."""
        return _json({"aliases": self._versions.aliases(), "versions": self._versions.rows()})

    def version(self, request: Request) -> AsciiJSON:
        """Explain one version: its origin, the result of each gate, the approval."""
        number = self._number(request.path_params["name"])
        names = [name for name, at in self._versions.aliases().items() if at == number]
        about = {"manifest": self._versions.manifest(number), "verdict": self._versions.verdict(number)}
        return _json({"version": number, "aliases": names, **about})

    def _number(self, name: str) -> int:
        aliases = {alias: n for alias, n in self._versions.aliases().items() if n is not None}
        numbers = [row["version"] for row in self._versions.rows()]
        if name in aliases:
            return aliases[name]
        if name.isdecimal() and len(name) > MAX_DIGITS:
            raise Problem(400, f"version {name[:20]}… has {len(name)} digits; expected {MAX_DIGITS} at most")
        if name.isdecimal() and int(name) in numbers:
            return int(name)
        hint = f"there are {_span(numbers)}" if name.isdecimal() else nearest(name, aliases)
        raise Problem(404, f"no version {name[:100]}; {hint}", valid=[*aliases, *numbers[-50:]])

    def labels(self, request: Request) -> AsciiJSON:
        """Counts of labels in all and by version; `accuracy` is that of matched answers."""
        if self._labels is None:
            raise Problem(404, "this agent does not count labels")
        counts, by_version = self._labels()
        return _json({"counts": counts, "versions": by_version})

    def events(self, request: Request) -> AsciiJSON:
        """List the newest events, oldest first."""
        text = request.query_params.get("limit", "100")
        if not text.isdecimal() or len(text) > MAX_DIGITS or not 1 <= int(text) <= MAX_EVENTS:
            raise Problem(400, f"limit is {text[:20]!r}; expected a whole number from 1 to {MAX_EVENTS}")
        return _json({"events": _tail(self._store / "events.jsonl", int(text))})

    def metrics(self, request: Request) -> Response:
        """Metrics in the text format of Prometheus."""
        text = self._metrics()
        if text is None:
            raise Problem(404, "no metrics are kept: OTEL_SDK_DISABLED or OTEL_METRICS_EXPORTER=none says so")
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def command(self, kind: Kind, request: Request) -> AsciiJSON:
        """Put one command into the inbox."""
        problems.check_caller(request, self._token)
        given = _fields(await _body(request))
        return await run_in_threadpool(self._put, kind, given)

    def _put(self, kind: Kind, given: dict[str, Any]) -> AsciiJSON:
        try:
            command = Command(kind, given.get("version"), given.get("by", "http"), given.get("reason", ""))
        except ConfigError as error:
            raise Problem(400, str(error), valid=list(_FIELDS)) from None
        waits = awaiting(self._status())
        if kind in ("approve", "reject") and command.number != waits:
            now = "none does" if waits is None else f"version {waits} does"
            raise Problem(409, f"version {command.number} does not wait for approval; {now}", awaiting=waits)
        if kind == "rollback" and command.number is not None:
            self._number(str(command.number))
        self._inbox.put(command)
        return _json(asdict(command), 202)


def make_app(
    store: Path,
    versions: Versions,
    *,
    token: str | None = None,
    hosts: OwnHosts = OWN,
    status: Status | None = None,
    labels: Counts | None = None,
    metrics: Exposition = lambda: None,
) -> Starlette:
    """Make the interface of one agent, see `Api`.

    Args:
        hosts: names under which it may be asked.
        status: current status; by default read from the file.
    """
    known = status or partial(read_status, store)
    api, health = Api(store, versions, token, known, labels, metrics), Health(known)
    gets: dict[str, Callable[..., Any]] = {
        "/healthz": health.alive,
        "/readyz": health.ready,
        "/metrics": api.metrics,
        "/v1/status": api.status,
        "/v1/versions": api.versions,
        "/v1/versions/{name}": api.version,
        "/v1/labels": api.labels,
        "/v1/events": api.events,
    }
    routes = [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
    routes += [Route(f"/v1/{kind}", partial(api.command, kind), methods=["POST"]) for kind in KINDS]
    handlers = {
        Problem: problems.on_problem,
        HTTPException: problems.on_http_error([f"GET {p}" for p in gets] + [f"POST /v1/{k}" for k in KINDS]),
        TtaError: problems.on_our_error,
        Exception: problems.on_any_error,
    }
    guard = Middleware(Guard, hosts=hosts, refuse=problems.answer)
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=[guard])
    app.state.may_be_reached, app.state.settings = token is not None, "TTA_HTTP__"
    return app


async def _body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await bodies.read(request, MAX_BODY_BYTES)
    except TooLarge as error:
        raise Problem(413, str(error)) from None
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_S:g} s") from None


def _fields(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Problem(400, 'the body is no JSON object; expected {"version": 3, "by": "anna", "reason": ""}')
    unknown = next((name for name in given if name not in _FIELDS), None)
    if unknown is not None:
        raise Problem(400, f"no field {unknown[:50]!r}; {nearest(unknown, _FIELDS)}", valid=list(_FIELDS))
    return given


def _tail(path: Path, limit: int) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            start = max(file.seek(0, 2) - _TAIL_BYTES, 0)
            file.seek(start)
            lines = file.read().splitlines()[1 if start else 0 :]  # the first may be half a line
    except FileNotFoundError:
        return []
    return list(reversed(list(islice(filter(None, map(_event, reversed(lines))), limit))))


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):  # half written
        return None


def _json(data: Mapping[str, Any], status: int = 200) -> AsciiJSON:
    # numbers that are not finite are no JSON: they travel as null
    text = json.dumps(data, default=str)
    return AsciiJSON(json.loads(text, parse_constant=lambda _: None), status)


def _span(numbers: list[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if numbers else "none"
