"""CPU work that holds the loop, in the package."""

import time
from importlib import import_module

import pytest

CULPRIT = "in crunch"


def crunch() -> None:
    end = time.thread_time() + 1
    while time.thread_time() < end:
        sum(range(1000))


async def work() -> None:
    crunch()


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
