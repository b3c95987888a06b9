"""An async generator left unfinished in `asyncio.run()`."""

import asyncio
from collections.abc import AsyncIterator

CULPRIT = r"py:17: an async generator left unfinished: pages\(\), started here"
kept: list[AsyncIterator[int]] = []


async def pages() -> AsyncIterator[int]:
    yield 1
    yield 2


async def main() -> None:
    kept.append(pages())
    assert await anext(kept[0]) == 1


def test_it_finds_a_page() -> None:
    asyncio.run(main())
