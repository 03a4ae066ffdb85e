"""Records of the log as requests over HTTP, and back: CloudEvents in binary mode, everything else as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote_to_bytes

from tta_agent.core.types import Headers

LABELS = "/labels"  # path of late labels; any other one is of inferences
KEPT = (
    "content-type", "traceparent", "tracestate", "inference-header-content-length", "x-request-id",
    "seldon-infer-type", "mlserver-model", "mlserver-version",
)  # fmt: skip
_CE, _HTTP_CE = "ce_", "ce-"
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%') + " "


def to_http(headers: Headers) -> dict[str, str]:
    """Headers of a record as those of a request; attributes of CloudEvents are percent-encoded, as it asks."""
    found = {}
    for name, value in headers:
        if name.startswith(_CE):
            found[_HTTP_CE + name[len(_CE) :]] = quote(value, safe=_PLAIN)
        else:
            found[name] = value.decode("latin-1")
    return found


def from_http(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Headers of a request, of those that codecs read, as those of a record. Names are in lower case."""
    found = []
    for name, value in pairs:
        if name.startswith(_HTTP_CE):
            found.append((_CE + name[len(_HTTP_CE) :], unquote_to_bytes(value)))
        elif name in KEPT:
            found.append((name, value.encode("latin-1", "replace")))
    return tuple(found)


def key_of(headers: Mapping[str, bytes]) -> bytes | None:
    """Key of a record: the id of the event, or of the request."""
    return headers.get("ce_id") or headers.get("x-request-id")


def is_label(path: str, headers: Mapping[str, bytes], kind: str) -> bool:
    """Whether a request brings labels, by its path or its type."""
    return path.rstrip("/").endswith(LABELS) or headers.get("ce_type") == kind.encode()
