"""A blocking call in the package: a socket connects."""

import socket
from importlib import import_module

import pytest

CULPRIT = "socket.socket.connect"


async def work() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
