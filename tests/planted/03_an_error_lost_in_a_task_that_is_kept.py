"""An error lost in a background task to which a reference is left."""

import asyncio

import pytest

CULPRIT = r"py:12: a lost error(.|\n)*in send\n +.*raise OSError"
tasks: list[asyncio.Task[None]] = []


async def send() -> None:
    raise OSError("lost")


@pytest.mark.asyncio
async def test_it_sends() -> None:
    tasks.append(asyncio.create_task(send()))
    await asyncio.sleep(0)
