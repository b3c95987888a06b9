"""Tasks and connections of fixtures and loops that outlive a test may stay."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio


class Peer:
    """A server and a client, with a task for each connection and one more."""

    async def start(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.address = self.server.sockets[0].getsockname()
        self.ticker = asyncio.create_task(asyncio.sleep(600))

    async def handle(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async for line in reader:
            writer.write(line)
            await writer.drain()
        writer.close()

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(*self.address)

    async def echo(self) -> None:
        self.writer.write(b"hello\n")
        assert await self.reader.readline() == b"hello\n"

    async def aclose(self) -> None:
        self.ticker.cancel()
        self.writer.close()
        await self.writer.wait_closed()
        self.server.close()
        await self.server.wait_closed()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Peer]:
    peer = Peer()
    await peer.start()
    await peer.connect()
    yield peer
    await peer.aclose()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_shared_connection(shared: Peer) -> None:
    await shared.echo()


@pytest.mark.asyncio(loop_scope="session")
async def test_the_same_connection(shared: Peer) -> None:
    await asyncio.to_thread(len, "")
    await shared.echo()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_connection_of_its_own_to_a_shared_server(shared: Peer) -> None:
    reader, writer = await asyncio.open_connection(*shared.address)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()


Start = Callable[[Coroutine[Any, Any, object]], None]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    tasks: list[asyncio.Task[object]] = []
    yield lambda work: tasks.append(asyncio.create_task(work))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.asyncio
async def test_a_task_that_a_fixture_ends(start: Start) -> None:
    start(asyncio.sleep(600))


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    await peer.start()
    yield peer
    await peer.aclose()


@pytest.mark.asyncio
async def test_a_connection_that_a_fixture_closes(peer: Peer) -> None:
    await peer.connect()
    await peer.echo()
