"""A test that hangs in `unittest.IsolatedAsyncioTestCase`."""

import asyncio
import unittest

import pytest

CULPRIT = r"py:14: no end after 0.3 s\n    await asyncio.Event\(\).wait\(\)"


@pytest.mark.deadline(0.3)
class Test(unittest.IsolatedAsyncioTestCase):
    async def test_it_gets_ready(self) -> None:
        await asyncio.Event().wait()
