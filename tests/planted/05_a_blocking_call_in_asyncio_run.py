"""A blocking call in the package, under `asyncio.run()` in a sync test."""

import asyncio
import time
from importlib import import_module

CULPRIT = r"planted.py:11: a blocking call to time.sleep\n"


async def work() -> None:
    time.sleep(0.01)


def test_it_works() -> None:
    asyncio.run(import_module("app.planted").work())
