"""A site on a local port, sound or broken as a test asks, and places to save its files
in.
"""

import asyncio
import gzip
import os
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from obstore.store import LocalStore, MemoryStore, ObjectStore
from rich.progress import Progress

from downloads.app import PART, Downloader


@pytest.fixture
def files() -> dict[str, bytes]:
    """What the site has, by path; all else is 404."""
    return {}


@pytest.fixture
def faults() -> defaultdict[str, deque[int | str]]:
    """What goes wrong with the next requests for a path, one fault a request.

    A fault is a status, or digits (503, to be tried again after so many seconds), or
    one of the
    words "hang" (no answer), "slow" (an answer after 5 s, and the second half of the
    body after 5 s
    more), "stall" (that half when `gate` opens), "cut" (a closed connection in its
    place), "long"
    (one byte less than announced), "chunked" (no announced size), "gzip" (compressed,
    asked or not)
    and "loop" (a redirect to the same place).
    """
    return defaultdict(deque)


@pytest.fixture
def traffic() -> Counter[str]:
    """How many requests there were for a path, and how many at a time: "now" and at the
    "peak".
    """
    return Counter()


@pytest.fixture
def busy() -> asyncio.Event:
    """Set as soon as the site keeps somebody waiting."""
    return asyncio.Event()


@pytest.fixture
def gate() -> asyncio.Event:
    """Opens the way for the second half of a body that is stalled."""
    return asyncio.Event()


@pytest_asyncio.fixture
async def site(  # noqa: C901
    files: dict[str, bytes],
    faults: defaultdict[str, deque[int | str]],
    traffic: Counter[str],
    busy: asyncio.Event,
    gate: asyncio.Event,
) -> AsyncIterator[TestServer]:
    """The site, listening on a free port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        traffic[request.path] += 1
        traffic["now"] += 1
        traffic["peak"] = max(traffic["peak"], traffic["now"])
        try:
            return await play(request)
        finally:
            traffic["now"] -= 1

    async def play(request: web.Request) -> web.StreamResponse:  # noqa: C901
        body = files.get(request.path)
        fault = faults[request.path].popleft() if faults[request.path] else ""
        if isinstance(fault, int):
            return web.Response(status=fault)
        if fault.isdecimal():
            return web.Response(status=503, headers={"Retry-After": fault})
        if body is None:
            raise web.HTTPNotFound
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "slow":
            await asyncio.sleep(5)
        if fault == "loop":
            faults[request.path].append("loop")
            raise web.HTTPFound(request.path)
        if fault == "gzip":
            return web.Response(
                body=gzip.compress(body), headers={"Content-Encoding": "gzip"}
            )
        response, half = web.StreamResponse(), len(body) // 2
        if fault != "chunked":
            response.content_length = len(body) + (fault == "long")
        await response.prepare(request)
        await response.write(body[:half])
        if fault == "stall":
            busy.set()
            await gate.wait()
        if fault == "slow":
            await asyncio.sleep(5)
        if fault != "cut":
            await response.write(body[half:])
        if fault in ("cut", "long"):
            assert request.transport is not None
            request.transport.close()
        return response

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    server = TestServer(application)
    async with server:
        yield server


@pytest.fixture
def offer(
    site: TestServer,
    files: dict[str, bytes],
    faults: defaultdict[str, deque[int | str]],
) -> Callable[..., str]:
    """`offer(path, body, *faults)` puts a file on the site and returns its URL."""

    def offer(path: str, body: bytes = b"text", *wrong: int | str) -> str:
        url = site.make_url(path)
        files[url.path] = body
        faults[url.path].extend(wrong)
        return str(url)

    return offer


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session that gives a silent server 30 s, closed after the test."""
    patience = aiohttp.ClientTimeout(connect=30, sock_read=30)
    async with aiohttp.ClientSession(timeout=patience) as session:
        yield session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to save in."""
    folder = tmp_path / "saved"
    folder.mkdir()
    return folder


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """A place to save in: each test that asks for it runs with each kind."""
    if request.param == "memory":
        return MemoryStore()
    return LocalStore(request.getfixturevalue("folder"))


@pytest.fixture
def bars() -> Progress:
    """Progress bars that nobody sees."""
    return Progress(disable=True)


@pytest.fixture
def downloader(
    session: aiohttp.ClientSession, store: ObjectStore, bars: Progress
) -> Downloader:
    """A downloader from anywhere into the store."""
    return Downloader(session, store, bars)


@pytest.fixture
def local(session: aiohttp.ClientSession, folder: Path, bars: Progress) -> Downloader:
    """A downloader into the folder."""
    return Downloader(session, LocalStore(folder), bars)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a local server that speaks S3."""
    try:
        server = import_module("moto.server").ThreadedMotoServer(
            "127.0.0.1", 0, verbose=False
        )
    except ImportError:
        missing = pytest.fail if os.environ.get("REQUIRE_SERVERS") else pytest.skip
        missing("moto is not installed; `uv sync --group s3` does it")
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest_asyncio.fixture
async def bucket(
    s3: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address of an empty bucket on the S3 server, which the environment names
    too.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    address = f"{s3}/bucket-{uuid.uuid4()}"
    async with session.put(address) as response:
        response.raise_for_status()
    return address


@pytest.fixture
def working_args(offer: Callable[..., str], folder: Path) -> list[str]:
    """Arguments with which the program succeeds."""
    return [offer("/a.txt"), offer("/b.txt"), "--to", str(folder)]


@pytest.fixture
def failing_args(
    offer: Callable[..., str], site: TestServer, folder: Path
) -> list[str]:
    """Arguments with which it fails: one of the files is not there."""
    return [offer("/a.txt"), str(site.make_url("/nowhere.txt")), "--to", str(folder)]


@pytest.fixture
def busy_args(offer: Callable[..., str], folder: Path) -> list[str]:
    """Arguments with which it waits for the second half of a file."""
    return [offer("/a.bin", bytes(4 * PART), "stall"), "--to", str(folder)]


@pytest.fixture
def until_busy(busy: asyncio.Event) -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Return when the site has sent the first half."""
    return lambda _stdout, _stderr: busy.wait()


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: half a file is of no use."""
    return False
