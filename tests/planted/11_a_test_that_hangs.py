"""A test that hangs."""

import asyncio

import pytest

CULPRIT = "await ready.wait()"


async def serve(ready: asyncio.Event) -> None:
    await ready.wait()


@pytest.mark.deadline(0.3)
@pytest.mark.asyncio
async def test_it_gets_ready() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(asyncio.Event()), name="server")
