"""A task left running by a test for the plugin of anyio."""

import asyncio

import pytest

CULPRIT = r"py:22: a task left running: .*poll\(\), created here"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


async def test_it_polls() -> None:
    poller = asyncio.create_task(poll())
    await asyncio.sleep(0)
    assert not poller.done()
