"""Checks of the caller: own names in the Host header, no pages of browsers, JSON, and a bearer token.

A page in a browser can send requests to any address, and its author can give any name to this one (DNS rebinding). It
cannot leave out the header Origin, choose the header Host, send JSON to another site unasked, or know the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?")
Fault = tuple[int, str]  # HTTP status, sentence


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class OwnHosts:
    """Names that the Host header may give.

    Attributes:
        names: in lower case; None allows any.
        addresses: whether any IP address is allowed, too: no page can be loaded from another one under it.
        setting: variable that allows more names.
    """

    names: frozenset[str] | None = LOCAL
    addresses: bool = False
    setting: str = "TTA_HTTP__HOSTS"

    @classmethod
    def of(cls, host: str, more: Sequence[str], setting: str) -> OwnHosts:
        """Names of a server that listens on `host`: where others can reach it, any, unless `more` lists them."""
        if not more and not is_loopback(host):
            return cls(None, True, setting)
        named = {name.lower().strip("[]") for name in (host, *more)}
        return cls(LOCAL | named, not is_loopback(host), setting)

    def fault(self, header: str | None) -> Fault | None:
        """Why a Host header is refused, or None."""
        if header is None:  # HTTP/1.0: no browser
            return None
        found = _HOST.fullmatch(header)
        if found is None:
            return 400, f"the header Host is {header[:50]!r}; expected a name or an address, and a port"
        name = found[1].strip("[]").rstrip(".").lower()
        if self.names is None or name in self.names or (self.addresses and _address(name)):
            return None
        own = ", ".join(sorted(self.names))
        return 403, f"host {name[:100]} is not one of this server's ({own}); {self.setting} allows more"


class Guard:
    """ASGI middleware that refuses requests under foreign names, and all of pages in browsers.

    Args:
        hosts: names of the server.
        refuse: makes the answer of a status and a sentence.
    """

    def __init__(self, app: ASGIApp, hosts: OwnHosts, refuse: Callable[[int, str], Response]) -> None:
        self._app, self._hosts, self._refuse = app, hosts, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        fault = self._fault(Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._refuse(*fault) if fault else self._app)(scope, receive, send)

    def _fault(self, headers: Headers) -> Fault | None:
        if fault := self._hosts.fault(headers.get("host")):
            return fault
        if "origin" in headers:
            return 403, "requests of pages in a browser (header Origin) are not taken"
        return None


def token_fault(header: str | None, token: str | None, setting: str) -> Fault | None:
    """Why an Authorization header is refused, or None; `setting` holds the token, None: nothing is asked for."""
    if token is None:
        return None
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        return 401, f"this needs the header `authorization: Bearer <{setting}>`"
    if not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
        return 403, f"the bearer token is not the one in {setting}"
    return None


def is_json(content_type: str | None) -> bool:
    """Whether a Content-Type header says JSON."""
    return (content_type or "").split(";")[0].strip().lower() == "application/json"
