"""A task left running in a loop of scope session."""

import asyncio

import pytest

CULPRIT = "in poll"
tasks: list[asyncio.Task[None]] = []


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.asyncio(loop_scope="session")
async def test_it_polls() -> None:
    tasks.append(asyncio.create_task(poll()))
