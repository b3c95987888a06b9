"""A task left running: a handler of asyncio's streams."""

import asyncio

import pytest

# And nothing else: cancelling such a task makes asyncio call its exception handler.
CULPRIT = (
    r"(?s)^(?!.*(lost error|Exception in callback))"
    r".*py:16: a task left running: .*in handle"
)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        writer.close()


@pytest.mark.asyncio
async def test_it_connects() -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    server.close()
