"""An error lost in a background task of `unittest.IsolatedAsyncioTestCase`."""

import asyncio
import unittest

CULPRIT = r"py:10: a lost error(.|\n)*in send\n +.*raise OSError"


async def send() -> None:
    raise OSError("lost")


class Test(unittest.IsolatedAsyncioTestCase):
    async def test_it_sends(self) -> None:
        sender = asyncio.create_task(send())
        await asyncio.sleep(0)
        assert sender.done()
