"""A call from another thread that is not thread-safe: it puts an item into a queue."""

import asyncio

import pytest

CULPRIT = r"py:15: call_soon\(\) of a loop, called from another thread\n"


@pytest.mark.asyncio
async def test_it_passes_items() -> None:
    items: asyncio.Queue[int] = asyncio.Queue()

    def produce() -> None:
        items.put_nowait(1)

    getting = asyncio.create_task(items.get())
    await asyncio.sleep(0)
    await asyncio.to_thread(produce)
    assert await getting == 1
