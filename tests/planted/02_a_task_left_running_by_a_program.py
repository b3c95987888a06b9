"""A task left running in `asyncio.run()`."""

import asyncio

CULPRIT = r"py:14: a task left running: .*poll\(\), created here"


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


async def main() -> None:
    poller = asyncio.create_task(poll())
    await asyncio.sleep(0)
    assert not poller.done()


def test_it_polls() -> None:
    asyncio.run(main())
