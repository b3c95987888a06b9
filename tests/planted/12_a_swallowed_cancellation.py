"""A coroutine that swallows its cancellation."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

CULPRIT = r"in fetch\n.*await asyncio.sleep\(0.01\)"


async def fetch() -> None:
    try:
        await asyncio.sleep(0.01)
    except BaseException:
        return


@pytest.mark.asyncio
async def test_it_fetches(cancel_everywhere: Callable[..., Awaitable[int]]) -> None:
    await cancel_everywhere(fetch)
