"""A call from another thread that is not thread-safe: it sets the result of a future."""

import asyncio

import pytest

CULPRIT = r"py:19: call_soon\(\) of a loop, called from another thread\n"


async def wait_for(future: asyncio.Future[int]) -> int:
    return await future


@pytest.mark.asyncio
async def test_it_gets_a_result() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_for(future))
    await asyncio.sleep(0)
    await asyncio.to_thread(lambda: future.set_result(1))
    assert await waiting == 1
