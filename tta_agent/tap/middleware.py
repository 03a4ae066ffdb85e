"""ASGI middleware that logs inferences over HTTP. It changes, delays and fails no response."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, TypeAlias

from tta_agent.core.errors import ConfigError
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.tap.exchange import HttpExchange, Reader, message
from tta_agent.tap.inference_log import Tap
from tta_agent.tap.opening import connect

AsgiScope: TypeAlias = MutableMapping[str, Any]
AsgiMessage: TypeAlias = MutableMapping[str, Any]
AsgiReceive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
AsgiSend: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[AsgiScope, AsgiReceive, AsgiSend], Awaitable[None]]
VersionOf: TypeAlias = Callable[[AsgiScope], "int | str | None"]

PATHS = r".*/infer|.*:predict"  # Open Inference Protocol, and KServe's protocol version 1
PROBE = "tta-probe"


class TapMiddleware:
    """Middleware that logs each answered request of some paths, with its response.

    Not logged, and counted as `left_out`: bodies over `max_body_bytes`, streamed or compressed responses (add this
    middleware before one that compresses, so that it stands inside). Answers other than 200 and requests with the
    header `tta-probe: 1` are not logged either.

    Args:
        app: the application inside.
        tap: log of inferences; that of the environment where not given.
        paths: regular expression of the paths of inferences.
        read: inputs and outputs of the bodies, called in the tap's thread; None takes bodies of the Open Inference
            Protocol and of KServe's protocol version 1.
        version: version that answered: the name of a response header, or a callable of the ASGI scope, whose `state`
            is `request.state`. Else the body says it, as `model_version`.
        max_body_bytes: largest request, and largest response, that is logged.

    Raises:
        ConfigError: without `read`, a tap whose format is not `cloudevents`.
    """

    def __init__(
        self,
        app: AsgiApp,
        tap: Tap | None = None,
        *,
        paths: str = PATHS,
        read: Reader | None = None,
        version: str | VersionOf | None = None,
        max_body_bytes: int = 8 << 20,
    ) -> None:
        self._app, self._tap, self._read = app, tap or connect(), read
        self._paths, self._version, self._max_body_bytes = re.compile(paths), version, max_body_bytes
        if read is None and not isinstance(self._tap.codec, CloudEvents):
            raise ConfigError(
                "TapMiddleware without `read` writes TTA_STREAM__CODEC=cloudevents (or auto) alone"
            )

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Pass on; the exchange is logged once its response has been sent."""
        if not self._is_inference(scope):
            return await self._app(scope, receive, send)
        watch = _Watch(self._max_body_bytes)

        async def received() -> AsgiMessage:
            got = await receive()
            watch.on_request(got)
            return got

        async def sent(given: AsgiMessage) -> None:
            ended = watch.on_response(given)  # first: a middleware outside may write into the message
            await send(given)
            if ended:
                self._log(scope, watch)

        await self._app(scope, received, sent)

    def _is_inference(self, scope: AsgiScope) -> bool:
        if scope["type"] != "http" or scope["method"] != "POST" or not self._paths.fullmatch(scope["path"]):
            return False
        return (PROBE.encode(), b"1") not in scope["headers"]

    def _log(self, scope: AsgiScope, watch: _Watch) -> None:
        """Queue the exchange; whatever goes wrong here is nobody's request."""
        try:
            if watch.left_out:
                return self._tap.leave_out(watch.left_out)
            answer = _headers(watch.answer_headers)
            named = answer.get(self._version) if isinstance(self._version, str) else None
            version = self._version(scope) if callable(self._version) else named
            bodies = b"".join(watch.request), b"".join(watch.response)
            exchange = HttpExchange(_headers(scope["headers"]), bodies[0], answer, bodies[1], version)
            self._tap.offer(partial(message, exchange, self._tap, self._read), exchange.nbytes)
        except Exception as error:
            self._tap.fail(error)


class _Watch:
    """Bodies of one exchange as they pass, and why they are not logged. Nothing is kept that will not be."""

    def __init__(self, limit_bytes: int) -> None:
        self._room = {"request": limit_bytes, "response": limit_bytes}
        self.request: list[bytes] = []
        self.response: list[bytes] = []
        self.answer_headers: list[tuple[bytes, bytes]] = []
        self.left_out = ""
        self._answered = self._whole = self._streams = False

    def on_request(self, got: AsgiMessage) -> None:
        """Look at what the application receives."""
        if got["type"] == "http.request":
            self._keep("request", self.request, got.get("body", b""))
            self._whole = not got.get("more_body", False)

    def on_response(self, given: AsgiMessage) -> bool:
        """Look at what the application sends; whether that is the end of an answer."""
        if given["type"] == "http.response.start":
            self._answered, self.answer_headers = given["status"] == 200, list(given.get("headers", ()))
            self._start({name.lower() for name, _ in self.answer_headers})
        elif given["type"] == "http.response.body" and self._answered:
            if self._streams and self.response and given.get("body"):
                self._leave_out("the response is a stream: it has no length, and comes in pieces")
            self._keep("response", self.response, given.get("body", b""))
            if not given.get("more_body", False):
                if not self._whole:
                    self.left_out = self.left_out or "the application has not read the request to its end"
                return True
        return False

    def _start(self, names: set[bytes]) -> None:
        self._streams = (
            b"content-length" not in names
        )  # where it comes in pieces: KServe leaves it out of whole ones
        if b"content-encoding" in names:
            self._leave_out("the response is compressed: add the middleware that compresses after the tap's")

    def _keep(self, side: str, pieces: list[bytes], piece: bytes) -> None:
        self._room[side] -= len(piece)
        if self._room[side] < 0:
            self._leave_out(f"the {side} is larger than max_body_bytes")
        elif piece and not self.left_out:
            pieces.append(piece)

    def _leave_out(self, why: str) -> None:
        self.left_out = self.left_out or why
        self.request.clear()
        self.response.clear()


def _headers(pairs: Any) -> dict[str, str]:
    """Headers by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
