"""An error lost in a background task and found while Python parses code."""

import ast
import asyncio
import gc

import pytest

CULPRIT = r"py:17: a lost error(.|\n)*in send\n +.*raise OSError"


async def send(cycle: list[object]) -> None:
    task = asyncio.current_task()
    cycle.append(task)
    cycle.append(cycle)
    task.cycle = cycle
    raise OSError("lost")


@pytest.mark.asyncio
async def test_it_sends() -> None:
    gc.disable()
    asyncio.create_task(send([]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source = "[" + ", ".join(["(1 + 2) * x[3]"] * 3000) + "]"
    gc.enable()
    gc.set_threshold(1, 1, 1)
    try:
        ast.parse(source)
    finally:
        gc.set_threshold(700, 10, 10)
