"""The API on a local port, sound or broken as a test asks, and a client that talks to
it.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import IO

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from api_client.app import (
    LARGEST,
    CatFact,
    Fact,
    fetch_data,
)


@pytest.fixture
def script() -> deque[web.Response | int | str]:
    """What the API does with the next requests; when the script is over, it answers
    with facts.

    An item is a response, a status, or a word: "slow" (a fact, but after 1 s), "hang"
    (no answer),
    "stall" (half an answer), "flood" (too long an answer, and no end), "cut" (half an
    answer, then
    the connection is closed), "drop" (the connection is closed).
    """
    return deque()


@pytest.fixture
def seen() -> list[float]:
    """When the API was asked: the loop's time of each request."""
    return []


@pytest.fixture
def busy() -> asyncio.Event:
    """Set as soon as the API has been asked."""
    return asyncio.Event()


@pytest.fixture
def hung_up() -> asyncio.Event:
    """Set as soon as somebody has left without waiting for an answer."""
    return asyncio.Event()


@pytest.fixture
def application(
    script: deque[web.Response | int | str],
    seen: list[float],
    busy: asyncio.Event,
    hung_up: asyncio.Event,
) -> web.Application:
    """The API, not yet on any port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(asyncio.get_running_loop().time())
        busy.set()
        fact = web.json_response(
            {"fact": f"Cat number {len(seen)} sleeps.", "length": 20}
        )
        try:
            return await play(script.popleft() if script else fact, request) or fact
        except asyncio.CancelledError:
            hung_up.set()
            raise

    application = web.Application()
    application.router.add_get("/fact", answer)
    return application


async def play(
    item: web.Response | int | str, request: web.Request
) -> web.StreamResponse | None:
    """Do what an item of the script says; None means that a fact may follow."""
    if isinstance(item, web.Response):
        return item
    if isinstance(item, int):
        return web.Response(status=item)
    if item in ("stall", "cut"):
        half = web.StreamResponse(headers={"Content-Length": "50"})
        await half.prepare(request)
        await half.write(b'{"fact": "Cats')
    if item == "flood":
        flood = web.StreamResponse()
        await flood.prepare(request)
        await flood.write(bytes(LARGEST + 1))
    if item in ("stall", "flood", "hang"):
        await asyncio.Event().wait()
    if item in ("cut", "drop"):
        assert request.transport is not None
        request.transport.close()
    if item == "slow":
        await asyncio.sleep(1)
    return None


@pytest_asyncio.fixture
async def api(application: web.Application) -> AsyncIterator[TestServer]:
    """The API, listening on a free port."""
    server = TestServer(application)
    async with server:
        yield server


@pytest.fixture
def base_url(api: TestServer) -> str:
    """Where the API listens."""
    return str(api.make_url("/"))


@pytest.fixture
def closed_port() -> Iterator[socket.socket]:
    """A port that refuses connections and that nobody else can take, until somebody
    listens.
    """
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        yield port


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session, closed after the test."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def client(session: aiohttp.ClientSession, base_url: str) -> CatFact:
    """A client of the local API, with the limits of real use."""
    return CatFact(session, base_url)


@pytest_asyncio.fixture
async def loaded_data(client: CatFact) -> list[Fact]:
    """Three facts, fetched through the client."""
    facts, _ = await fetch_data(client, 3)
    return facts


@pytest.fixture
def working_args(base_url: str) -> list[str]:
    """Arguments with which the program succeeds."""
    return ["3", "--json", "--base-url", base_url]


@pytest.fixture
def failing_args(base_url: str) -> list[str]:
    """Arguments with which it fails: nothing is there."""
    return ["1", "--base-url", f"{base_url}nowhere"]


@pytest.fixture
def busy_args(base_url: str, script: deque[web.Response | int | str]) -> list[str]:
    """Arguments with which it waits for an answer that never comes."""
    script.append("hang")
    return ["1", "--base-url", base_url]


@pytest.fixture
def until_busy(busy: asyncio.Event) -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Return when the program has asked and waits."""
    return lambda _stdout, _stderr: busy.wait()


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: it has nothing to bring to an end."""
    return False
