"""Async code that is not run by pytest-asyncio."""

import asyncio
import unittest


async def nap() -> str:
    await asyncio.sleep(0.01)
    return "rested"


class Test(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.sleeper = asyncio.create_task(asyncio.sleep(600))

    async def asyncTearDown(self) -> None:
        self.sleeper.cancel()

    async def test_a_unittest(self) -> None:
        assert await nap() == "rested"

    def test_a_sync_unittest(self) -> None:
        assert self.sleeper is not None


def test_a_runner() -> None:
    with asyncio.Runner() as runner:
        assert runner.run(nap()) == "rested"
        assert runner.get_loop().run_until_complete(nap()) == "rested"
    runner = asyncio.Runner()
    assert runner.run(nap()) == "rested"
    runner.close()


def test_asyncio_run() -> None:
    assert asyncio.run(nap()) == "rested"


def test_a_loop_made_by_hand() -> None:
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(nap()) == "rested"
    loop.close()
