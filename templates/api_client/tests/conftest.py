"""A fake API on a local port that fails as a test wants, and a client for it."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import IO

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from api_client.app import fetch_data
from api_client.client import (
    MAX_BODY,
    PATH,
    CatFact,
    Fact,
)
from api_client.session import open_session

# --- The fake API


@pytest.fixture
def script() -> deque[web.Response | int | str]:
    """What the API does with the next requests. After the script it sends facts.

    An item is a response, a status, or one of these words:

    - "slow": send a fact, but after one second
    - "hang": send nothing
    - "stall": send half a response, and nothing more
    - "flood": send a response that is too long and does not end
    - "cut": send half a response and close the connection
    - "drop": close the connection
    """
    return deque()


@pytest.fixture
def request_times() -> list[float]:
    """The loop's time of each request that the API received."""
    return []


@pytest.fixture
def request_headers() -> list[Mapping[str, str]]:
    """The headers of each request that the API received."""
    return []


@pytest.fixture
def busy() -> asyncio.Event:
    """Set when the API receives a request."""
    return asyncio.Event()


@pytest.fixture
def hung_up() -> asyncio.Event:
    """Set when a client closes its connection without waiting for the response."""
    return asyncio.Event()


class LeakyBucket:
    """A rate limiter without bursts, as nginx has it (`limit_req`)."""

    def __init__(self) -> None:
        self.rate = float("inf")  # requests per second
        self.status = 429
        self.headers: dict[str, str] = {}
        self.pause = 0.0  # no client may send a request so soon after a refusal
        self.too_early: list[float] = []
        self._allowed_at = float("-inf")
        self._refused_at = float("-inf")

    def refuses(self, now: float) -> bool:
        """Return whether a request that arrives at this time is refused."""
        if self._refused_at < now < self._refused_at + self.pause:
            self.too_early.append(now)
        # Times are sums of floats, which are not exact.
        if now < self._allowed_at - 1e-6:
            self._refused_at = now
            return True
        self._allowed_at = now + 1 / self.rate
        return False


@pytest.fixture
def rate_limiter() -> LeakyBucket:
    """The rate limiter of the API. It allows everything until a test sets its rate."""
    return LeakyBucket()


@pytest.fixture
def application(
    script: deque[web.Response | int | str],
    request_times: list[float],
    request_headers: list[Mapping[str, str]],
    rate_limiter: LeakyBucket,
    busy: asyncio.Event,
    hung_up: asyncio.Event,
) -> web.Application:
    """The API, which does not listen yet."""

    async def handle(request: web.Request) -> web.StreamResponse:
        now = asyncio.get_running_loop().time()
        request_times.append(now)
        request_headers.append(request.headers)
        busy.set()
        if rate_limiter.refuses(now):
            return web.Response(
                status=rate_limiter.status, headers=rate_limiter.headers
            )
        fact = web.json_response(example(len(request_times)))
        if not script:
            return fact
        try:
            response = await perform(script.popleft(), request)
        except asyncio.CancelledError:
            hung_up.set()
            raise
        if response is None:
            return fact
        return response

    application = web.Application()
    application.router.add_get(PATH, handle)
    return application


def example(number: int) -> dict[str, object]:
    """Return what the API sends as the response to this request, from 1 on."""
    return {"fact": f"Cat number {number} sleeps.", "length": 20}


async def perform(
    item: web.Response | int | str, request: web.Request
) -> web.StreamResponse | None:
    """Do what an item of the script says. Return None if a fact is to be sent."""
    if isinstance(item, web.Response):
        return item
    if isinstance(item, int):
        return web.Response(status=item)
    if item == "slow":
        await asyncio.sleep(1)
    if item in ("stall", "cut"):
        await send_half_a_response(request)
    if item == "flood":
        await send_too_much(request)
    if item in ("hang", "stall", "flood"):
        await asyncio.Event().wait()
    if item in ("cut", "drop"):
        assert request.transport is not None
        request.transport.close()
    return None


async def send_half_a_response(request: web.Request) -> None:
    response = web.StreamResponse(headers={"Content-Length": "50"})
    await response.prepare(request)
    await response.write(b'{"fact": "Cats')


async def send_too_much(request: web.Request) -> None:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(bytes(MAX_BODY + 1))


@pytest_asyncio.fixture
async def api(application: web.Application) -> AsyncIterator[TestServer]:
    """The API, listening on a free port."""
    server = TestServer(application)
    async with server:
        yield server


@pytest.fixture
def base_url(api: TestServer) -> str:
    """The base URL of the API."""
    return str(api.make_url("/"))


@pytest.fixture
def closed_port() -> Iterator[socket.socket]:
    """A port that refuses connections until something listens on this socket."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        yield port


# --- The client


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the proxies of the machine from the tests."""
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The HTTP session of the program, closed after the test."""
    async with open_session() as session:
        yield session


@pytest.fixture
def client(session: aiohttp.ClientSession, base_url: str) -> CatFact:
    """A client of the fake API, with the default limits."""
    return CatFact(session, base_url)


@pytest_asyncio.fixture
async def loaded_data(client: CatFact) -> list[Fact]:
    """Three facts, fetched with the client."""
    facts, _ = await fetch_data(client, 3)
    return facts


# --- The program, for test_main.py


@pytest.fixture
def working_args(base_url: str) -> list[str]:
    """Arguments with which the program succeeds."""
    return ["3", "--json", "--base-url", base_url]


@pytest.fixture
def failing_args(base_url: str) -> list[str]:
    """Arguments with which the program fails: the API does not have this path."""
    return ["1", "--base-url", f"{base_url}nowhere"]


@pytest.fixture
def busy_args(base_url: str, script: deque[web.Response | int | str]) -> list[str]:
    """Arguments with which the program waits for a response that never comes."""
    script.append("hang")
    return ["1", "--base-url", base_url]


@pytest.fixture
def until_busy(busy: asyncio.Event) -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """A function that waits until the program has sent a request."""

    async def wait(_stdout: IO[str], _stderr: IO[str]) -> None:
        await busy.wait()

    return wait


@pytest.fixture
def drains() -> bool:
    """Whether the program finishes its work after a signal: it does not."""
    return False
