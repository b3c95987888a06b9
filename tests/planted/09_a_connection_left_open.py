"""A connection left open."""

import asyncio

import pytest

CULPRIT = "unclosed"


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.asyncio
async def test_it_connects() -> None:
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        reader, _writer = await asyncio.open_connection(*address)
        await reader.read()
