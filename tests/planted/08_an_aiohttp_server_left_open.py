"""A server left open: a test server of aiohttp."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

CULPRIT = r"unclosed (resource|<socket.socket)"


@pytest.mark.asyncio
async def test_it_listens() -> None:
    server = TestServer(web.Application())
    await server.start_server()
