"""What goes wrong, as OpenAI's clients read it: one JSON object with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from seqexport.plugins.errors import UserError
from seqexport.runtimes.serve.jobs import Busy

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """An answer other than 200, with the reason."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def error_object(status: int, message: str) -> dict[str, Any]:
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode(error_object(status, _writable(message)))
    return Response(body, status, dict(headers or {}), media_type="application/json")


def _writable(message: str) -> str:
    """Without halves of surrogate pairs, which a client may have sent."""
    return message.encode("utf-8", "replace").decode()


def handle_errors(app: FastAPI) -> None:
    """Every error of the app as such an object; a fault of ours without its details."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return error_response(error.status, error.message, error.headers)

    @app.exception_handler(UserError)
    async def unfit(request: Request, error: UserError) -> Response:
        return error_response(400, str(error))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        status = 503 if error.stopping else 429
        return error_response(status, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return error_response(400, _told(error.errors()))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return error_response(500, "a fault of the server: its log says more, under this answer's x-request-id")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return error_response(error.status_code, str(error.detail), error.headers)


def _told(errors: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with the first field that is; of one that may have several types, what each of them lacks."""
    field = str(errors[0]["loc"][1]) if len(errors[0]["loc"]) > 1 else "the body"
    reasons = dict.fromkeys(error["msg"] for error in errors if error["loc"][1:2] == errors[0]["loc"][1:2])
    return f"{field[:100]}: {'; or '.join(reasons)}"
