"""Repeat HTTP requests that failed for a temporary reason.

A request that failed is repeated after a pause. The pause doubles with each failure,
and a random part keeps many clients from coming back at the same moment.

A server that limits the rate of requests answers with status 429, or with a Retry-After
header. All workers share that information in a `RateLimit`: they pause together, and
come back one after the other.
"""

import asyncio
import logging
import math
import random
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp

from .text import mask_credentials, printable

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1  # seconds
MAX_PAUSE = 45.0  # seconds

TOO_MANY_REQUESTS = 429
# Request Timeout, Too Early, Too Many Requests.
TEMPORARY_CLIENT_ERRORS = {408, 425, TOO_MANY_REQUESTS}
# Not Implemented, HTTP Version Not Supported, Variant Also Negotiates, Loop Detected,
# Not Extended, Network Authentication Required. All other 5xx are temporary.
PERMANENT_SERVER_ERRORS = {501, 505, 506, 508, 510, 511}

TEMPORARY_ERRORS = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    TimeoutError,
)
# These are ClientConnectionErrors too, but the next attempt would end in the same way.
PERMANENT_ERRORS = (
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ServerFingerprintMismatch,
)


class RateLimitError(Exception):
    """The server allows the next request only after the deadline."""


class RateLimit:
    """The rate of requests that a server allows, shared by all workers that use it.

    At first, requests start at once. When the server refuses one because of its rate
    limit, no request starts until the server allows it. From then on they start one
    after the other, with a gap between them. The gap doubles with each refusal and
    shrinks a little with each success, so that the workers find the allowed rate.
    """

    # After 35 successes a gap is half as long. A tiny gap is dropped.
    SHRINK = 0.98
    MIN_GAP = FIRST_PAUSE / 10

    def __init__(self) -> None:
        self._gap = 0.0  # seconds
        # These two are times of the event loop.
        self._next_start = -math.inf
        self._slowed_at = -math.inf
        self._refusal = ""
        # The worker that holds this lock makes the next request.
        self._turn = asyncio.Lock()

    async def wait(self, deadline: float) -> None:
        """Wait until a request may start.

        Raises RateLimitError at once if that will be after `deadline`, a time of the
        event loop.
        """
        loop = asyncio.get_running_loop()
        if self._gap == 0.0 and self._next_start <= loop.time():
            return
        self._check(deadline)
        async with self._turn:
            # During the sleep, another request may be refused and prolong the pause.
            while self._next_start > loop.time():
                self._check(deadline)
                await asyncio.sleep(self._next_start - loop.time())
            self._next_start = loop.time() + self._gap

    def _check(self, deadline: float) -> None:
        if self._next_start > deadline:
            raise RateLimitError(self._refusal)

    def slow_down(self, started: float, pause: float, reason: object) -> None:
        """Start fewer requests, because the server refused one.

        The request started at the time `started` of the event loop. The server wants no
        requests for `pause` seconds. Messages show `reason`.
        """
        now = asyncio.get_running_loop().time()
        # Several requests may be refused at the same time. The gap must grow only once,
        # since the later refusals do not tell whether the new gap is long enough.
        if started > self._slowed_at:
            if self._slowed_at == -math.inf:
                log.warning("sending fewer requests: %s", readable(reason))
            self._slowed_at = now
            self._gap = min(MAX_PAUSE, max(FIRST_PAUSE, 2 * self._gap))
        # The server may have given the same pause to other clients: the random part
        # keeps them from coming back together.
        jitter = random.uniform(0, self._gap)  # noqa: S311 - no secret
        seconds = max(pause, self._gap) + jitter
        if now + seconds > self._next_start:
            self._next_start = now + seconds
            self._refusal = (
                f"{reason}; next request in {seconds:.0f} s, after the deadline"
            )

    def speed_up(self, started: float) -> None:
        """Shorten the gap, because a request that started at `started` succeeded."""
        if self._gap > 0.0 and started > self._slowed_at:
            self._gap *= self.SHRINK
            if self._gap < self.MIN_GAP:
                self._gap = 0.0


async def retry(
    request: Callable[[], Awaitable[T]],
    *,
    attempts: int,
    rate_limit: RateLimit,
    deadline: float,
) -> T:
    """Return what `request` returns, repeating it after temporary errors.

    Makes at most `attempts` attempts. Those that the server refused because of its rate
    limit do not count. They are repeated until `deadline`, a time of the event loop;
    `math.inf` means that there is no deadline.

    Raises the error of the last attempt if there are no attempts left, or if the pause
    before the next one would end after the deadline. Raises RateLimitError if the rate
    limit allows no attempt before the deadline.
    """
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        await rate_limit.wait(deadline)
        started = loop.time()
        try:
            result = await request()
        except Exception as error:
            if not is_temporary(error):
                raise
            allowed_after = requested_pause(error)
            if allowed_after is not None:
                rate_limit.slow_down(started, allowed_after, error)
                continue
            failures += 1
            pause = backoff(failures)
            if failures == attempts or loop.time() + pause > deadline:
                raise
            # One message per request is enough: the last error is raised.
            if failures == 1:
                log.warning("retrying after an error: %s", readable(error))
        else:
            rate_limit.speed_up(started)
            return result
        await asyncio.sleep(pause)


def is_temporary(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, aiohttp.ClientResponseError):
        return is_temporary_status(error.status)
    if isinstance(error, PERMANENT_ERRORS):
        return False
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        # All but this one say that the host does not exist.
        return error.os_error.errno == socket.EAI_AGAIN
    return isinstance(error, TEMPORARY_ERRORS)


def is_temporary_status(status: int) -> bool:
    """Return whether a request that got this HTTP status may succeed later."""
    if status in TEMPORARY_CLIENT_ERRORS:
        return True
    return status >= 500 and status not in PERMANENT_SERVER_ERRORS


def backoff(failures: int) -> float:
    """Return the seconds to wait after this number of failures in a row."""
    jitter = random.uniform(0, 1)  # noqa: S311 - no secret
    # The exponent is limited because a float cannot hold 2 ** 1024.
    return min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 100) + jitter)


def requested_pause(error: Exception) -> float | None:
    """Return the seconds for which the server wants no requests.

    Returns 0 if it did not say how long, and None if the error has nothing to do with
    the rate of requests.
    """
    if not isinstance(error, aiohttp.ClientResponseError):
        return None
    pause = retry_after(error.headers or {})
    if pause is None and error.status == TOO_MANY_REQUESTS:
        return 0.0
    return pause


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in the Retry-After header, or None if it is not valid."""
    value = headers.get("Retry-After", "")
    try:
        if value.isdecimal():
            return float(int(value))  # float() alone makes inf of a very long number
        return seconds_until(parsedate_to_datetime(value), headers)
    except (ValueError, TypeError, OverflowError):
        return None


def seconds_until(moment: datetime, headers: Mapping[str, str]) -> float:
    """Return the seconds from the Date of a response until `moment`, at least 0.

    The server's clock decides, as ours may be wrong; ours is used if there is no Date.
    """
    if "Date" in headers:
        now = parsedate_to_datetime(headers["Date"])
    else:
        now = datetime.now(moment.tzinfo)
    return max(0.0, (moment - now).total_seconds())


def readable(error: object) -> str:
    """Return an error as one line for a log message, without credentials."""
    return printable(mask_credentials(error))
