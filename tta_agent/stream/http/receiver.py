"""HTTP receiver of records: answers at once, and refuses where the agent is behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tta_agent.stream.http.messages import from_http, is_label, key_of
from tta_agent.stream.http.queue import QueueIsFull, ReceivedQueue, ReceivedRecord
from tta_agent.web.access import Guard, OwnHosts, token_fault
from tta_agent.web.bodies import AsciiJSON, TooLarge, read

BODY_S = 30.0  # longest arrival of a body
RETRY_AFTER_S = "1"
LABEL = "io.tta.label.v1"


def make_receiver(
    queue: ReceivedQueue,
    topic: str,
    labels_topic: str,
    *,
    body_bytes: int,
    token: str | None,
    hosts: OwnHosts,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """Make the receiver as an ASGI application: POST to any path brings one record, GET / shows the counts.

    202: queued. 400: no body. 401, 403: no token, or not that one. 413: too large. 503 with Retry-After: the queue is
    full, and the record is dropped and counted.

    Args:
        queue: to the reader.
        topic, labels_topic: of records, and of labels (path /labels, or their type).
        body_bytes: largest record.
        token: bearer token; None: none is asked for.
        hosts: names under which it may be asked.
        clock: seconds since the epoch.
    """
    receiver = _Receiver(queue, topic, labels_topic, body_bytes, token, clock)
    return Starlette(
        routes=[
            Route("/", receiver.counts, methods=["GET"]),
            Route("/{path:path}", receiver.take, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, refuse=refusal)],
    )


class _Receiver:
    """Handlers, on the event loop."""

    def __init__(
        self,
        queue: ReceivedQueue,
        topic: str,
        labels_topic: str,
        body_bytes: int,
        token: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._queue, self._topic, self._labels_topic = queue, topic, labels_topic
        self._body_bytes, self._token, self._clock = body_bytes, token, clock

    async def take(self, request: Request) -> Response:
        """One record."""
        fault = token_fault(request.headers.get("authorization"), self._token, "TTA_RECEIVER__TOKEN")
        if fault:
            return refusal(*fault)
        if (coding := request.headers.get("content-encoding", "identity")) != "identity":
            return refusal(415, f"content-encoding is {coding[:100]}; expected none")
        try:
            return await self._take(request)
        except QueueIsFull:
            return refusal(503, "the agent is behind; the record is dropped", {"retry-after": RETRY_AFTER_S})
        except TooLarge as error:
            return refusal(413, f"{error}; TTA_RECEIVER__BODY_BYTES allows more")
        except TimeoutError:
            return refusal(408, f"no whole body within {BODY_S:g} s")
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    async def _take(self, request: Request) -> Response:
        headers = from_http(request.headers.items())
        by_name = dict(headers)
        topic = self._labels_topic if is_label(request.url.path, by_name, LABEL) else self._topic
        with self._queue.arriving() as share:
            async with asyncio.timeout(BODY_S):
                body = await read(request, self._body_bytes, share.grow)
            if not body:
                return refusal(400, "the request has no body; expected one record")
            share.put(ReceivedRecord(topic, key_of(by_name), body, headers, int(self._clock() * 1000)))
        return Response(status_code=202)

    async def counts(self, request: Request) -> Response:
        """Records that were received and dropped, and those that wait."""
        waiting = {"queued": len(self._queue), "queued_bytes": self._queue.held_bytes}
        return AsciiJSON({**self._queue.counts, **waiting})


def refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """Answer that says why a record is not taken."""
    return AsciiJSON({"error": sentence}, status, headers)
