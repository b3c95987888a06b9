"""A server left open."""

import asyncio

import pytest

CULPRIT = r"unclosed (resource|<socket.socket)"


async def handle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None: ...


@pytest.mark.asyncio
async def test_it_listens() -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    assert server.is_serving()
