"""A task left running by a test of `unittest.IsolatedAsyncioTestCase`."""

import asyncio
import unittest

CULPRIT = r"py:16: a task left running: .*poll\(\), created here"


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


class Test(unittest.IsolatedAsyncioTestCase):
    async def test_it_polls(self) -> None:
        self.poller = asyncio.create_task(poll())
        await asyncio.sleep(0)
