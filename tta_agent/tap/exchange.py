"""A request over HTTP and its response, as one record. Bodies of tensors are joined as text, and never parsed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tta_agent.core.types import Message
from tta_agent.stream.codecs import cloudevents, oip
from tta_agent.tap.inference_log import Tap

MOST_PARSED_BYTES = 1 << 18  # of a response: it names id and version
TEXT = 512  # characters of an id or a name at most


@dataclass(frozen=True, slots=True)
class HttpExchange:
    """One inference.

    Attributes:
        headers: of the request, by lower-case name.
        request: its body.
        answer_headers: of the response, likewise.
        response: its body.
        version: version that answered, where the server says it beside the body.
        time_s: of the answer, seconds since the epoch.
    """

    headers: Mapping[str, str]
    request: bytes
    answer_headers: Mapping[str, str]
    response: bytes
    version: int | str | None = None
    time_s: float = field(default_factory=time.time)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self.request) + len(self.response)


Reader: TypeAlias = Callable[
    [HttpExchange], tuple[Any, Any]
]  # inputs [N, ...] and outputs [N, C], as Tap.record's


def json_fields(inputs: str, outputs: str, *, batched: bool = False) -> Reader:
    """Reader of JSON objects whose fields hold the input and the answer.

    Args:
        inputs, outputs: names of the fields in request and response.
        batched: whether the first axis of both is that of the samples; else each holds one.
    """

    def read(exchange: HttpExchange) -> tuple[Any, Any]:
        found = json.loads(exchange.request)[inputs], json.loads(exchange.response)[outputs]
        x, y = (np.asarray(values) for values in found)
        return (x, y) if batched else (x[None], y[None])

    return read


def message(exchange: HttpExchange, tap: Tap, read: Reader | None) -> Message:
    """Record of one exchange.

    Args:
        read: inputs and outputs of the bodies; None joins bodies of the Open Inference Protocol or of KServe's
            protocol version 1.

    Raises:
        ValueError: the bodies are not of these protocols.
    """
    where = {
        "source": tap.source,
        "time_s": exchange.time_s,
        "traceparent": exchange.headers.get("traceparent"),
    }
    entity = exchange.headers.get("tta-entity", "")[:TEXT] or None
    if read is not None:
        x, y = map(np.asarray, read(exchange))
        id = _id(exchange, {})
        return tap.codec.encode_inference(id, x, y, exchange.version, model=tap.model, entity=entity, **where)  # type: ignore[arg-type]
    request, response = (
        _parts(exchange.headers, exchange.request),
        _parts(exchange.answer_headers, exchange.response),
    )
    told = json.loads(response[0]) if len(response[0]) <= MOST_PARSED_BYTES else {}
    id = _id(exchange, told)
    version = told.get("model_version") if exchange.version is None else str(exchange.version)
    own = {"id": id, **({"model_version": version} if version else {})}
    head = _joined(request[0], response[0], json.dumps(own).encode())
    body = head + request[1] + response[1]
    about = {"modelname": tap.model, "modelversion": version, "entitykey": entity}
    return cloudevents.inference(id, body, len(head) if len(body) > len(head) else None, **where, **about)  # type: ignore[arg-type]


def _parts(headers: Mapping[str, str], body: bytes) -> tuple[bytes, bytes]:
    """JSON head and raw tensors of a body."""
    said = headers.get(oip.HEAD_LENGTH, "")
    length = int(said) if said.isdecimal() else len(body)
    return body[:length].strip(), body[length:]


def _joined(*objects: bytes) -> bytes:
    """One JSON object with the members of all; of a name that comes twice the last counts."""
    for text in objects:
        if text[:1] != b"{" or text[-1:] != b"}":
            raise ValueError(
                f"a body begins {text[:20]!r}; expected a JSON object, perhaps with raw tensors after it"
            )
    members = (text[1:-1].strip() for text in objects)
    return b"{" + b",".join(part for part in members if part) + b"}"


def _id(exchange: HttpExchange, told: Mapping[str, Any]) -> str:
    """Inference id: that of the response, else of the request's headers, else a new one."""
    own = told.get("id") if isinstance(told, Mapping) else None
    headers = (exchange.headers.get(name) for name in ("ce-id", "x-request-id"))
    return next((one[:TEXT] for one in (own, *headers) if isinstance(one, str) and one), str(uuid.uuid4()))
