"""Addresses for logs, messages and status: without their secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_USER = re.compile(r"(?<=://)[^/\s@]*@")


def without_user(text: str) -> str:
    """Text in which no URL names a user or a password."""
    return _USER.sub("…@", text)


def host_only(url: str) -> str:
    """Scheme, host and port of a URL: user, path and query may each hold a secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        return "(an address without a host)"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}/…"
