"""A task left running."""

import asyncio

import pytest

CULPRIT = "in poll"


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_it_polls() -> None:
    poller = asyncio.create_task(poll())
    await asyncio.sleep(0)
    assert not poller.done()
