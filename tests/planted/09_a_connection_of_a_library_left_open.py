"""A connection left open: a library has opened it in a task."""

import asyncio
import sys
from importlib import import_module
from pathlib import Path

import pytest

CULPRIT = r"py:37: unclosed .*, opened here\n    await library.Client"
LIBRARY = """
import asyncio

class Client:
    async def get(self, host, port):
        task = asyncio.create_task(asyncio.open_connection(host, port))
        self.streams = await task
        self.itself = self
"""


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.asyncio
async def test_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "a_library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "a_library", raising=False)
    library = import_module("a_library")
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    await library.Client().get(host, port)
    server.close()
