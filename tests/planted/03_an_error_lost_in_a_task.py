"""An error lost in a background task."""

import asyncio

import pytest

CULPRIT = "in send\n +.*raise OSError"


async def send() -> None:
    raise OSError("lost")


@pytest.mark.asyncio
async def test_it_sends() -> None:
    sender = asyncio.create_task(send())
    await asyncio.sleep(0)
    assert sender.done()
