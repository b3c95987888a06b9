"""A task left running: the handler of a connection of `asyncio.start_server()`."""

import asyncio

import pytest

# No other problem is reported: asyncio calls its exception handler for such a task.
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
