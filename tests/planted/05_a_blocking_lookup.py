"""A blocking call in the package: a host name is looked up."""

import socket
from importlib import import_module

import pytest

CULPRIT = r"planted.py:12: a blocking call to socket.gethostbyname\n"


async def work() -> None:
    socket.gethostbyname("localhost")


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
