"""A blocking call in the package: a lock is waited for."""

import threading
from importlib import import_module

import pytest

CULPRIT = "lock.acquire"


async def work() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.01)


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
