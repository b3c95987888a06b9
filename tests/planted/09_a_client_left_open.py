"""A connection left open: a client session of aiohttp."""

import aiohttp
import pytest

CULPRIT = r"py:11: Unclosed client session .*, opened here\n    client = aiohttp"


@pytest.mark.asyncio
async def test_it_asks() -> None:
    client = aiohttp.ClientSession()
    assert not client.closed
