"""A blocking call in the package, inside an `except Exception`."""

import time
from contextlib import suppress
from importlib import import_module

import pytest

CULPRIT = r"py:14: a blocking call to time.sleep\n    time.sleep\(0.01\)"


async def work() -> None:
    with suppress(Exception):
        time.sleep(0.01)


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
