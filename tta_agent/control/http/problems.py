"""Errors as RFC 9457 defines them (application/problem+json), and authorisation of commands."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from tta_agent.core.errors import RegistryError, StoreError, TtaError

LOCAL = ("127.0.0.1", "localhost", "::1")


class Problem(Exception):
    """Error response: a status, a sentence, and the valid choices."""

    def __init__(self, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more


def answer(status: int, detail: str, **more: Any) -> JSONResponse:
    """Response of one error."""
    about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse({**about, **more}, status, headers, media_type="application/problem+json")


async def on_problem(request: Request, error: Exception) -> JSONResponse:
    """What a handler has refused."""
    assert isinstance(error, Problem)  # it is registered for no other
    return answer(error.status, error.detail, **error.more)


def on_http_error(paths: list[str]) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """Response to an unknown path or method, with the valid ones."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return answer(error.status_code, f"{request.method} {request.url.path}: {error.detail}", valid=paths)

    return handler


async def on_our_error(request: Request, error: Exception) -> JSONResponse:
    """What the registry or the labels say."""
    assert isinstance(error, TtaError)
    away = isinstance(error, StoreError)
    return answer(503 if away else 404 if isinstance(error, RegistryError) else 500, str(error))


async def on_any_error(request: Request, error: Exception) -> JSONResponse:
    """Every failure has an answer."""
    return answer(500, f"{type(error).__name__}: {error}")


def check_caller(request: Request, token: str | None) -> None:
    """Check that the caller may send commands.

    Without a token only this machine may, under its own name: a page in a browser must not, under whatever name its
    author has given to this address. A page cannot send JSON to another site unasked, either.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Problem(415, "commands are JSON: send content-type application/json")
    if token is None:
        if request.url.hostname not in LOCAL:
            raise Problem(403, f"host {request.url.hostname} is not this machine; set TTA_HTTP__TOKEN")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Problem(401, "commands need the header `authorization: Bearer <TTA_HTTP__TOKEN>`")
    if not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Problem(403, "the bearer token is not the one in TTA_HTTP__TOKEN")
