"""An error in a `call_soon` callback."""

import asyncio

import pytest

CULPRIT = "in notify\n    raise OSError"


def notify() -> None:
    raise OSError("lost")


@pytest.mark.asyncio
async def test_it_notifies() -> None:
    asyncio.get_running_loop().call_soon(notify)
    await asyncio.sleep(0)
