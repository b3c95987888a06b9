"""A race that only another order of the tasks shows."""

import asyncio

import pytest

CULPRIT = r"FAILED .*test_it_greets\[seed\d\] - .*KeyError"
seen: dict[str, str] = {}


async def log_in() -> None:
    seen["name"] = "you"


async def greet() -> str:
    return seen["name"]


@pytest.mark.shuffled(8)
@pytest.mark.asyncio
async def test_it_greets() -> None:
    seen.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(log_in())
        group.create_task(greet())
