"""Errors as RFC 9457 defines them (application/problem+json), and authorisation of commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from tta_agent.core.errors import RegistryError, StoreError, TtaError
from tta_agent.web import access
from tta_agent.web.bodies import AsciiJSON


class Problem(Exception):
    """Error response: a status, a sentence, and the valid choices."""

    def __init__(self, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more


def answer(status: int, detail: str, **more: Any) -> AsciiJSON:
    """Response of one error."""
    about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return AsciiJSON({**about, **more}, status, headers, media_type="application/problem+json")


async def on_problem(request: Request, error: Exception) -> AsciiJSON:
    """What a handler has refused."""
    assert isinstance(error, Problem)  # it is registered for no other
    return answer(error.status, error.detail, **error.more)


def on_http_error(paths: list[str]) -> Callable[[Request, Exception], Awaitable[AsciiJSON]]:
    """Response to an unknown path or method, with the valid ones."""

    async def handler(request: Request, error: Exception) -> AsciiJSON:
        assert isinstance(error, HTTPException)
        return answer(
            error.status_code, f"{request.method} {request.scope['path'][:200]}: {error.detail}", valid=paths
        )

    return handler


async def on_our_error(request: Request, error: Exception) -> AsciiJSON:
    """What the registry or the labels say."""
    assert isinstance(error, TtaError)
    away = isinstance(error, StoreError)
    return answer(503 if away else 404 if isinstance(error, RegistryError) else 500, str(error))


async def on_any_error(request: Request, error: Exception) -> AsciiJSON:
    """Every failure has an answer."""
    return answer(500, f"{type(error).__name__}: {error}")


def check_caller(request: Request, token: str | None) -> None:
    """Check that the caller may send commands: in JSON, and with the token where there is one."""
    if not access.is_json(request.headers.get("content-type")):
        raise Problem(415, "commands are JSON: send content-type application/json")
    if fault := access.token_fault(request.headers.get("authorization"), token, "TTA_HTTP__TOKEN"):
        raise Problem(*fault)
