"""An async generator left unfinished."""

import asyncio
from collections.abc import AsyncIterator

import pytest

CULPRIT = "unfinished: pages"


async def pages() -> AsyncIterator[int]:
    for page in range(9):
        await asyncio.sleep(0)
        yield page


@pytest.mark.asyncio
async def test_it_finds_a_page() -> None:
    async for page in pages():
        if page == 3:
            break
