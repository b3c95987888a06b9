"""A blocking call in the package: a sleep."""

import time
from importlib import import_module

import pytest

CULPRIT = "time.sleep"


async def work() -> None:
    time.sleep(0.01)


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
