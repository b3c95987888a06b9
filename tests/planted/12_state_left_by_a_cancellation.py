"""State left behind by a cancellation at one of several awaits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

CULPRIT = "assert not books"
books: list[str] = []


async def lend() -> None:
    books.append("lent")
    await asyncio.sleep(0)
    try:
        await asyncio.sleep(0)
    finally:
        books.clear()


def check() -> None:
    assert not books


@pytest.mark.asyncio
async def test_it_lends(cancel_everywhere: Callable[..., Awaitable[int]]) -> None:
    await cancel_everywhere(lend, check)
