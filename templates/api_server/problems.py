"""Errors in the one shape that clients get: problem details, RFC 9457.

    {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "..."}

A response never contains a traceback or a statement of the database. An unexpected
error is logged with a request id, and the client gets the same id.
"""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - the name that RFC 9457 gives it
    """An error for the client. A subclass sets the status; `detail` is one sentence."""

    status = 500
    # Seconds after which the client may try again, for the header Retry-After.
    retry_after: int | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def response(self) -> Response:
        """Return the response that the client gets."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return problem_response(self.status, self.detail, headers=headers)


class ProblemDetails(BaseModel):
    """The shape of all errors, for the documentation at /docs."""

    type: str = "about:blank"
    title: str = Field(examples=["Conflict"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["Only 1 of 120 seats is left."])


# The part of the documentation that all routes share.
DOCUMENTATION: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error",
        "content": {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}},
    }
}


def problem_response(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> Response:
    """Return a response with problem details; `members` are added to them."""
    details = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return Response(json.dumps(details), status, headers=headers, media_type=MEDIA_TYPE)


# --- Errors that FastAPI knows


def add_handlers(app: FastAPI) -> None:
    """Make the application answer all expected errors with problem details."""
    for kind in (Problem, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer_error)


async def answer_error(_request: Request, error: Exception) -> Response:
    """Return the response to an expected error."""
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, HTTPException):
        # An error of FastAPI itself, such as an unknown path.
        detail = str(error.detail)
        return problem_response(error.status_code, detail, headers=error.headers)
    if isinstance(error, RequestValidationError):
        return validation_response(error)
    raise error


def validation_response(error: RequestValidationError) -> Response:
    """Return the response to a request that does not fit its models.

    It names the fields and the reasons, but does not repeat what the client sent.
    """
    errors = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        errors.append({"field": field, "message": item["msg"]})
    return problem_response(422, "The request is not valid.", errors=errors)


# --- Errors that nothing else has answered


class ProblemMiddleware:
    """The outermost layer of the application. It answers every error."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def observed_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        except Exception as error:
            response = respond_to(scope, error)
            if started:
                # uvicorn closes the connection of a response that has no end.
                log.warning("%r was not answered completely", scope["path"])
                return
            await response(scope, receive, send)


def respond_to(scope: Scope, error: Exception) -> Response:
    """Return the response to an error. If it is an unexpected one, log it."""
    if isinstance(error, Problem):
        return error.response()
    request_id = uuid4().hex
    log.error(
        "request %s failed: %s %r",
        request_id,
        scope["method"],
        scope["path"],
        exc_info=error,
    )
    return problem_response(
        500,
        "An unexpected error. Its details are in the log, under the request id.",
        headers={"X-Request-ID": request_id},
        request_id=request_id,
    )
