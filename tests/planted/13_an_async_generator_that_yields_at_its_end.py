"""An async generator left unfinished: its `finally` yields."""

from collections.abc import AsyncIterator

import pytest

# The generator is reported once, although the closing loop finds it again.
CULPRIT = r"(?s)^(?!.*lost error).*py:22: an async generator.*ignored GeneratorExit"
kept: list[AsyncIterator[int]] = []


async def pages() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        yield 2


@pytest.mark.asyncio
async def test_it_finds_a_page() -> None:
    kept.append(pages())
    assert await anext(kept[0]) == 1


@pytest.mark.asyncio
async def test_the_next_one_runs() -> None: ...
