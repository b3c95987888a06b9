"""A task left running that was started from a thread."""

import asyncio
import threading

import pytest

CULPRIT = r"a task left running: .*poll\(\)(.|\n)*in poll"


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_it_polls() -> None:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()

    def start() -> None:
        asyncio.run_coroutine_threadsafe(poll(), loop)
        loop.call_soon_threadsafe(started.set)

    thread = threading.Thread(target=start)
    thread.start()
    await started.wait()
    await asyncio.to_thread(thread.join)
