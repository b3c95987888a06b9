"""An async generator left unfinished: its `finally` waits for 10 minutes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

CULPRIT = r"py:22: an async generator .*pages(.|\n)*did not end within 1 s"
kept: list[AsyncIterator[int]] = []


async def pages() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        await asyncio.sleep(600)


@pytest.mark.asyncio
async def test_it_finds_a_page() -> None:
    kept.append(pages())
    assert await anext(kept[0]) == 1


@pytest.mark.asyncio
async def test_the_next_one_runs() -> None: ...
