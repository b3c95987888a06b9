"""Retries: which errors are temporary, how long to wait, and shared rate limits."""

import asyncio
import math
import socket
from email.utils import formatdate
from functools import partial
from itertools import pairwise
from ssl import SSLCertVerificationError, SSLError
from unittest.mock import create_autospec

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from shared.retries import (
    RateLimit,
    RateLimitError,
    backoff,
    is_temporary,
    retry,
    retry_after,
)

date = partial(formatdate, usegmt=True)


def now() -> float:
    """The loop's time: a virtual clock starts at 0, and only waiting moves it."""
    return asyncio.get_running_loop().time()


def status(number: int, **headers: str) -> aiohttp.ClientResponseError:
    """The error of a response with this HTTP status."""
    request = create_autospec(aiohttp.RequestInfo, instance=True)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return aiohttp.ClientResponseError(request, (), status=number, headers=headers)  # type: ignore[arg-type]


def no_connection(
    kind: type[aiohttp.ClientConnectorError], reason: OSError
) -> aiohttp.ClientConnectorError:
    """The error of a connection that could not be made."""
    return kind(create_autospec(ConnectionKey, instance=True), reason)


class Request:
    """A request that fails with each of `errors` in turn, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.starts: list[float] = []

    async def __call__(self) -> str:
        self.starts.append(now())
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return "response"


# --- Which errors are temporary


@pytest.mark.parametrize("number", [408, 425, 429, 500, 502, 503, 504, 522, 599])
def test_a_temporary_status_is_retried(number: int) -> None:
    assert is_temporary(status(number))


@pytest.mark.parametrize(
    "number", [200, 302, 400, 401, 403, 404, 407, 410, 422, 501, 505, 511]
)
def test_a_permanent_status_is_not_retried(number: int) -> None:
    assert not is_temporary(status(number))


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        aiohttp.ServerTimeoutError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError(),
        aiohttp.ClientOSError(104, "Connection reset by peer"),
        no_connection(aiohttp.ClientConnectorError, ConnectionRefusedError()),
        no_connection(
            aiohttp.ClientConnectorDNSError, socket.gaierror(socket.EAI_AGAIN, "?")
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_connection_is_retried(error: Exception) -> None:
    assert is_temporary(error)


@pytest.mark.parametrize(
    "error",
    [
        no_connection(
            aiohttp.ClientConnectorDNSError, socket.gaierror(socket.EAI_NONAME, "?")
        ),
        no_connection(aiohttp.ClientConnectorSSLError, SSLError()),
        aiohttp.ClientConnectorCertificateError(
            create_autospec(ConnectionKey, instance=True), SSLCertVerificationError()
        ),
        aiohttp.ServerFingerprintMismatch(b"expected", b"got", "host", 443),
        aiohttp.InvalidURL("http://["),
        aiohttp.NonHttpUrlClientError("ftp://host"),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_would_come_back_is_not_retried(error: Exception) -> None:
    assert not is_temporary(error)


# --- How long to wait


def test_the_pause_doubles_and_has_a_random_part_and_a_limit() -> None:
    for failures in range(1, 9):
        shortest = 0.1 * 2 ** (failures - 1)
        assert shortest <= backoff(failures) <= shortest + 1
    assert backoff(3) != backoff(3)
    assert backoff(20) == 45
    assert backoff(10_000) == 45


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": date(90), "Date": "today"}, None),
        ({"Retry-After": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}, None),
        ({"Retry-After": "1e999"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "9" * 5000}, None),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": date(60)}, 0.0),
        ({"Retry-After": date(60), "Date": date(90)}, 0.0),
        ({"Retry-After": date(90), "Date": date(60)}, 30.0),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds


# --- The loop


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_temporary_errors_are_retried_until_the_request_succeeds() -> None:
    request = Request(status(500), TimeoutError(), status(503))
    result = await retry(request, attempts=4, rate_limit=RateLimit(), deadline=math.inf)
    assert result == "response"
    pauses = [after - before for before, after in pairwise(request.starts)]
    for pause, shortest in zip(pauses, [0.1, 0.2, 0.4], strict=True):
        assert shortest <= pause <= shortest + 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_after_the_last_attempt_its_error_is_raised() -> None:
    request = Request(status(500), status(502), status(503))
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        await retry(request, attempts=2, rate_limit=RateLimit(), deadline=math.inf)
    assert caught.value.status == 502


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_permanent_error_is_raised_at_once() -> None:
    request = Request(status(404, Retry_After="1"))
    with pytest.raises(aiohttp.ClientResponseError):
        await retry(request, attempts=9, rate_limit=RateLimit(), deadline=math.inf)
    assert request.starts == [0]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_no_pause_ends_after_the_deadline() -> None:
    request = Request(*[status(500)] * 99)
    with pytest.raises(aiohttp.ClientResponseError):
        await retry(request, attempts=99, rate_limit=RateLimit(), deadline=10)
    assert len(request.starts) > 3
    assert now() == request.starts[-1] < 10


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_only_the_first_error_of_a_request_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = Request(
        aiohttp.ClientPayloadError("http://ada:secret@api\nis broken"),
        *[TimeoutError("no response")] * 3,
    )
    await retry(request, attempts=9, rate_limit=RateLimit(), deadline=math.inf)
    assert caplog.messages == ["retrying after an error: http://ada:***@api is broken"]


# --- Rate limits


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_server_decides_when_the_next_attempt_starts() -> None:
    request = Request(
        status(429, Retry_After="7"),
        status(503, Retry_After=date(90), Date=date(60)),
        status(429),
        status(429, Retry_After="0"),
    )
    await retry(request, attempts=1, rate_limit=RateLimit(), deadline=math.inf)
    pauses = [after - before for before, after in pairwise(request.starts)]
    assert pauses[0] == pytest.approx(7, abs=0.1)
    assert pauses[1] == pytest.approx(30, abs=0.2)
    assert 0.4 <= pauses[2] <= 0.8
    assert 0.8 <= pauses[3] <= 1.6


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_rate_limit_holds_back_all_workers_and_then_they_are_spread_out() -> (
    None
):
    limit = RateLimit()
    first = Request(status(429, Retry_After="5"))
    others = [Request() for _ in range(4)]

    async def start_later(request: Request) -> None:
        await asyncio.sleep(1)
        await retry(request, attempts=1, rate_limit=limit, deadline=math.inf)

    async with asyncio.TaskGroup() as group:
        group.create_task(retry(first, attempts=1, rate_limit=limit, deadline=math.inf))
        for request in others:
            group.create_task(start_later(request))

    starts = sorted(start for request in [first, *others] for start in request.starts)
    assert starts[0] == 0
    assert starts[1] >= 5
    for before, after in pairwise(starts[1:]):
        assert 0.09 < after - before < 0.11


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_refusals_of_simultaneous_requests_count_once() -> None:
    limit = RateLimit()
    requests = [Request(status(429)) for _ in range(20)]
    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(
                retry(request, attempts=1, rate_limit=limit, deadline=math.inf)
            )
    assert now() < 0.1 * 22


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_after_many_successes_requests_start_at_once_again() -> None:
    limit = RateLimit()
    request = Request(status(429))
    for _ in range(200):
        await retry(request, attempts=1, rate_limit=limit, deadline=math.inf)
    assert request.starts[-1] == request.starts[-50]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_pause_beyond_the_deadline_fails_at_once_and_for_all_workers() -> None:
    limit = RateLimit()
    refused = Request(status(429, Retry_After="1795991616"))
    waiting = Request()
    for request in [refused, waiting]:
        with pytest.raises(RateLimitError, match="next request in 1795991616 s"):
            await retry(request, attempts=5, rate_limit=limit, deadline=60)
    assert refused.starts == [0]
    assert waiting.starts == []
    assert now() == 0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_pause_that_grows_during_the_wait_is_obeyed() -> None:
    limit = RateLimit()
    limit.slow_down(started=0, pause=5, reason="429")
    waiting = asyncio.create_task(limit.wait(deadline=60))
    await asyncio.sleep(3)
    limit.slow_down(started=0, pause=10, reason="429")
    await waiting
    assert 13 <= now() < 13.2


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_pause_that_grows_beyond_the_deadline_is_an_error() -> None:
    limit = RateLimit()
    limit.slow_down(started=0, pause=5, reason="429")
    waiting = asyncio.create_task(limit.wait(deadline=60))
    await asyncio.sleep(1)
    limit.slow_down(started=0, pause=100, reason="429")
    with pytest.raises(RateLimitError, match="next request in 100 s"):
        await limit.wait(deadline=60)
    assert now() == 1
    with pytest.raises(RateLimitError):
        await waiting
    assert now() < 6


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_rate_limit_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    request = Request(*[status(429, Retry_After="1")] * 5)
    await retry(request, attempts=1, rate_limit=RateLimit(), deadline=math.inf)
    [message] = caplog.messages
    assert message.startswith("sending fewer requests: 429")
