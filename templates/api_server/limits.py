"""The limits of the server. They are command-line options, too."""

import asyncio
from dataclasses import dataclass, fields
from typing import Annotated

from cyclopts import Parameter, validators
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem

MAX_LIMIT = 10**9
LIMIT = Parameter(validator=validators.Number(gt=0, lte=MAX_LIMIT))

# These are answered even when the server is busy: a busy server must not be restarted.
HEALTH_CHECKS = {"/healthz", "/readyz"}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Limits:
    """Raises ValueError unless each limit is above 0 and at most 10**9."""

    concurrency: Annotated[
        int, LIMIT, Parameter(help="Maximum number of operations at the same time.")
    ] = 1000
    request_timeout: Annotated[
        float, LIMIT, Parameter(help="Time limit for one request, in seconds.")
    ] = 10.0
    body_size: Annotated[
        int, LIMIT, Parameter(help="Maximum size of a request's body, in bytes.")
    ] = 65536
    page_size: Annotated[
        int, LIMIT, Parameter(help="Maximum number of items on one page.")
    ] = 100
    pool_size: Annotated[
        int, LIMIT, Parameter(help="Maximum number of connections to PostgreSQL.")
    ] = 5
    key_lifetime: Annotated[
        float,
        LIMIT,
        Parameter(help="Time until an Idempotency-Key expires, in seconds."),
    ] = 86400.0

    def __post_init__(self) -> None:
        invalid = []
        for field in fields(self):
            if not 0 < getattr(self, field.name) <= MAX_LIMIT:
                invalid.append(field.name)
        if invalid:
            names = ", ".join(invalid)
            raise ValueError(f"must be above 0 and at most {MAX_LIMIT}: {names}")


class OverloadedError(Problem):
    """There are too many requests at the same time."""

    status = 503
    retry_after = 1


class TooSlowError(Problem):
    """The program did not answer a request in time."""

    status = 503
    retry_after = 1


class SlowClientError(Problem):
    """The client did not send its request in time."""

    status = 408


class BodySizeError(Problem):
    """The body of a request is too long."""

    status = 413


class LimitsMiddleware:
    """Limits the number of requests, their size and their time.

    The body is read here, before the program does anything for the request. So a slow
    client holds no connection to the database.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] in HEALTH_CHECKS:
            await self.handle(scope, receive, send)
            return
        if self.in_flight >= self.limits.concurrency:
            raise OverloadedError("Too many requests at the same time.")
        self.in_flight += 1
        try:
            await self.handle(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and run the program, both together within the time limit."""
        seconds = self.limits.request_timeout
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(receive, self.limits.body_size)
        except TimeoutError:
            raise SlowClientError(
                f"The request did not arrive within {seconds:g} seconds."
            ) from None
        if body is None:
            return

        message = {"type": "http.request", "body": body, "more_body": False}
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                await self.app(scope, replay(message, receive), send)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise TooSlowError(f"No answer within {seconds:g} seconds.") from None


async def read_body(receive: Receive, max_size: int) -> bytes | None:
    """Return the body of a request, or None if the client has left.

    Raises BodySizeError as soon as more than `max_size` bytes have arrived.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_size:
            raise BodySizeError(f"The body is longer than {max_size} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def replay(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that returns `message` first, then what `receive` returns."""
    is_first = True

    async def replayed() -> Message:
        nonlocal is_first
        if is_first:
            is_first = False
            return message
        return await receive()

    return replayed
