"""A deadlock."""

import asyncio

import pytest

CULPRIT = "deadlock(.|\n)*in transfer\n    async with second:"


async def transfer(first: asyncio.Lock, second: asyncio.Lock) -> None:
    async with first:
        await asyncio.sleep(1)
        async with second:
            pass


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_it_transfers() -> None:
    one, two = asyncio.Lock(), asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        group.create_task(transfer(one, two))
        group.create_task(transfer(two, one))
