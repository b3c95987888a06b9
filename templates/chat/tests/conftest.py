"""A room on a local port, real WebSocket clients, and a bot that speaks as a test
wants.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import IO, Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from chat.app import Room, main

Enter = Callable[..., Awaitable[aiohttp.ClientWebSocketResponse]]
Words = asyncio.Queue[str | Exception | None]


@pytest.fixture
def words() -> Words:
    """What the bot says, as soon as it is put in; None ends its answer, an exception
    breaks it.
    """
    return Words()


@pytest.fixture
def asked() -> list[str]:
    """What the bot has been asked."""
    return []


@pytest.fixture
def silent() -> asyncio.Event:
    """Set when the bot has stopped talking."""
    return asyncio.Event()


@pytest.fixture
def room(words: Words, asked: list[str], silent: asyncio.Event) -> Room:
    """The room; a test may change its limits before somebody comes."""

    async def reply(text: str) -> AsyncGenerator[str, None]:
        asked.append(text)
        try:
            while (word := await words.get()) is not None:
                if isinstance(word, Exception):
                    raise word
                yield word
        finally:
            silent.set()

    return Room(reply=reply)


@pytest_asyncio.fixture
async def runner(room: Room) -> AsyncIterator[web.AppRunner]:
    """What serves the room; not a TestServer, which cancels the handler of whoever has
    left.
    """
    runner = web.AppRunner(room.application(), access_log=None)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest_asyncio.fixture
async def url(runner: web.AppRunner) -> URL:
    """Where the room listens: a free port."""
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return URL(site.name)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session with room for as many clients as a test likes, closed after
    it.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        yield session


@pytest_asyncio.fixture
async def enter(url: URL, session: aiohttp.ClientSession) -> AsyncIterator[Enter]:
    """Enter the room under a name, and be welcomed; the options are those of
    `ws_connect`.
    """

    inside: list[aiohttp.ClientWebSocketResponse] = []

    async def enter(name: str, **options: Any) -> aiohttp.ClientWebSocketResponse:
        place = (url / "ws").with_query(name=name)
        ws: aiohttp.ClientWebSocketResponse = await session.ws_connect(place, **options)
        inside.append(ws)
        assert await ws.receive_json() == {"type": "welcome", "name": name}
        return ws

    yield enter
    for ws in inside:
        await ws.close()


@pytest_asyncio.fixture
async def stall() -> AsyncIterator[Callable[[URL], Awaitable[object]]]:
    """Let somebody enter a room who takes nothing from the network, not even the
    welcome.
    """
    writers: list[asyncio.StreamWriter] = []

    async def stall(url: URL) -> None:
        sock = socket.socket()
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )  # nor does its system take much
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (url.host, url.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        writers.append(writer)
        upgrade = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        )
        key = f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
        writer.write(
            f"GET /ws?name=Slow HTTP/1.1\r\nHost: {url.host}\r\n{upgrade}{key}".encode()
        )
        await reader.read(1)  # more has come, and the reader has paused its transport

    yield stall
    for writer in writers:
        writer.transport.abort()


@pytest_asyncio.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> asyncio.Future[str]:
    """The URL that `main` prints when it listens."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def listening(line: str) -> None:
        address.set_result(line.removeprefix("listening on "))

    monkeypatch.setitem(main.__globals__, "print", listening)
    return address


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        yield somebody.getsockname()[1]


@pytest.fixture
def working_args() -> list[str]:
    """Arguments with which the program succeeds."""
    return ["--port", "0", "--lifetime", "0.01"]


@pytest.fixture
def failing_args(taken_port: int) -> list[str]:
    """Arguments with which it fails: the port is taken."""
    return ["--port", str(taken_port)]


@pytest.fixture
def busy_args() -> list[str]:
    """Arguments with which it serves until a signal stops it."""
    return ["--port", "0"]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Return when it listens."""

    async def until_busy(stdout: IO[str], _stderr: IO[str]) -> None:
        line = await asyncio.to_thread(stdout.readline)
        assert line.startswith("listening on http://127.0.0.1:")

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A signal lets it say goodbye to everybody, and that is a success."""
    return True
