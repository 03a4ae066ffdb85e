"""Errors as the protocol writes them: every failure is answered with a status and a message."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tta_agent.core.errors import DecodeError, RegistryError
from tta_agent.web.bodies import AsciiJSON, TooLarge

_log = logging.getLogger(__name__)
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


async def guarded(handler: Handler, request: Request) -> Response:
    """The handler's answer, or the error as the protocol writes it."""
    try:
        return await handler(request)
    except HTTPException as error:
        return refusal(error.status_code, error.detail, error.headers)
    except TooLarge as error:
        return refusal(413 if error.inflated else 400, str(error))
    except (DecodeError, ClientDisconnect) as error:
        return refusal(400, str(error) or "the client went away")
    except RegistryError as error:
        return refusal(404, str(error))
    except Exception as error:  # every failure has an answer
        _log.error("%s %r failed: %s", request.method, request.scope["path"], error)
        return refusal(500, str(error) or type(error).__name__)


async def http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, as the protocol writes errors."""
    assert isinstance(error, HTTPException)  # it is registered for no other
    return refusal(error.status_code, error.detail, error.headers)


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Response of one error."""
    return AsciiJSON({"error": message}, status, headers)
