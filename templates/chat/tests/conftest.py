"""A room on a local port, real WebSocket clients, and bots with a script."""

import asyncio
import json
import socket
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Sequence,
)
from typing import IO, Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import WSMsgType, web
from yarl import URL

from chat.app import main
from chat.history import Message
from chat.room import Room
from chat.server import application, make_runner


class Peer:
    """A client in the room."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.welcome: dict[str, Any] = {}

    async def send(self, **message: Any) -> None:
        """Send a message as JSON."""
        await self.ws.send_json(message)

    async def say(self, *texts: str) -> None:
        """Say each text."""
        for text in texts:
            await self.send(type="message", text=text)

    async def receive(self, *, all_types: bool = False) -> dict[str, Any]:
        """Return the next message; by default not of those who enter or leave."""
        while True:
            message: dict[str, Any] = await self.ws.receive_json()
            if all_types or message["type"] not in {"joined", "left"}:
                return message

    async def heard(self, count: int = 1) -> list[str]:
        """Return the next messages, each as "name: text" or "type: text"."""
        lines = []
        for _ in range(count):
            message = await self.receive()
            if message["type"] == "message":
                lines.append(f"{message['name']}: {message['text']}")
            else:
                texts = [message.get(key) for key in ("text", "note", "reason")]
                lines.append(f"{message['type']}: {''.join(filter(None, texts))}")
        return lines

    async def goodbye(self) -> tuple[int, str]:
        """Skip what comes before the server's close; return its code and its reason."""
        message = await self.ws.receive()
        while message.type is WSMsgType.TEXT:
            message = await self.ws.receive()
        assert message.type is WSMsgType.CLOSE
        return message.data, message.extra or ""

    async def close(self) -> None:
        """Leave the room."""
        await self.ws.close()


@pytest.fixture
def words() -> asyncio.Queue[str | Exception | None]:
    """What the bot says, as soon as it is put in.

    None ends its answer, and an exception is raised.
    """
    return asyncio.Queue()


@pytest.fixture
def asked() -> list[list[str]]:
    """The conversations that the bot got, each message as "name: text"."""
    return []


@pytest.fixture
def silent() -> asyncio.Event:
    """Set when the bot has stopped talking."""
    return asyncio.Event()


@pytest.fixture
def room(
    words: asyncio.Queue[str | Exception | None],
    asked: list[list[str]],
    silent: asyncio.Event,
) -> Room:
    """The room; a test may change its limits before a client enters."""

    async def reply(conversation: Sequence[Message]) -> AsyncGenerator[str, None]:
        asked.append([f"{message.name}: {message.text}" for message in conversation])
        try:
            while True:
                word = await words.get()
                if word is None:
                    return
                if isinstance(word, Exception):
                    raise word
                yield word
        finally:
            silent.set()

    return Room(reply=reply)


@pytest_asyncio.fixture
async def runner(room: Room) -> AsyncIterator[web.AppRunner]:
    """Runs the web application of the room."""
    app = application(room, ["https://chat.example.com/"])
    runner = make_runner(app)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest_asyncio.fixture
async def url(runner: web.AppRunner) -> URL:
    """The address of the page, on a free port."""
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return URL(site.name)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session for any number of connections."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest_asyncio.fixture
async def enter(
    url: URL, session: aiohttp.ClientSession
) -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Enters the room under a name; the options are those of `ws_connect`.

    The room is that of the fixture `room`, unless `at` is the URL of another one.
    """
    inside: list[Peer] = []

    async def enter(name: str, *, at: str = "", **options: Any) -> Peer:
        place = (URL(at or str(url)) / "ws").with_query(name=name)
        peer = Peer(await session.ws_connect(place, **options))
        inside.append(peer)
        peer.welcome = await peer.receive()
        assert peer.welcome["type"] == "welcome"
        return peer

    yield enter
    for peer in inside:
        await peer.ws.close()


@pytest.fixture
def until_left(
    session: aiohttp.ClientSession,
) -> Callable[[URL, int], Awaitable[None]]:
    """Waits until so many clients are left; for tests on a virtual clock."""

    async def until_left(url: URL, left: int) -> None:
        for _ in range(100):
            async with session.get(url / "healthz") as response:
                if (await response.json())["clients"] == left:
                    return
            await asyncio.sleep(1)
        raise AssertionError("a client stays")

    return until_left


UPGRADE = """\
GET /ws?name=Slow HTTP/1.1\r
Host: localhost\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r
\r
"""


@pytest_asyncio.fixture
async def enter_raw() -> AsyncIterator[Callable[[URL], Awaitable[Any]]]:
    """Enters a room without a WebSocket library; returns an asyncio.StreamWriter.

    It reads nothing but the first byte, and its system does not take much more.
    """
    writers: list[asyncio.StreamWriter] = []

    async def enter_raw(url: URL) -> asyncio.StreamWriter:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (url.host, url.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1)
        writers.append(writer)
        writer.write(UPGRADE.encode())
        await reader.read(1)  # more has come, so the reader has paused its transport
        return writer

    yield enter_raw
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


# --- A local model server


Chunk = bytes | asyncio.Event | None


def event(text: str, finish_reason: str | None = None) -> bytes:
    """Return the event by which a model server sends a part of its answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


class ModelServer:
    """An OpenAI-compatible server that sends `chunks`, as a test wants them.

    An event among the chunks delays what comes after it until a test sets the event;
    None breaks the connection.
    """

    DONE = b"data: [DONE]\n\n"
    event = staticmethod(event)

    def __init__(self) -> None:
        self.url = ""
        self.chunks: list[Chunk] = [event("Hello"), event("", "stop"), self.DONE]
        self.status = 200
        self.headers: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.authorization: str | None = None
        self.request_ended = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a completion."""
        self.bodies.append(await request.json())
        self.authorization = request.headers.get("Authorization")
        response = web.StreamResponse(status=self.status, headers=self.headers)
        response.content_type = "text/event-stream"
        try:
            await response.prepare(request)
            for chunk in self.chunks:
                if isinstance(chunk, asyncio.Event):
                    await chunk.wait()
                elif chunk is None:
                    assert request.transport
                    request.transport.abort()
                else:
                    await response.write(chunk)
            return response
        finally:
            self.request_ended.set()


@pytest_asyncio.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    """A model server on a free port."""
    server = ModelServer()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"{site.name}/v1"
    yield server
    await runner.cleanup()


# --- For test_main.py


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


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
    """Returns when it listens."""

    async def until_busy(stdout: IO[str], _stderr: IO[str]) -> None:
        line = await asyncio.to_thread(stdout.readline)
        assert line.startswith("listening on http://127.0.0.1:")

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A signal makes it close all connections properly, and that is a success."""
    return True
