"""A blocking call in the package while a thread waits for the caller."""

import queue
import threading
import time
from importlib import import_module

import pytest

CULPRIT = r"planted.py:17: a blocking call to time.sleep\n"


async def work() -> None:
    jobs: queue.Queue[str] = queue.Queue()
    worker = threading.Thread(target=jobs.get)
    worker.start()
    time.sleep(0.05)
    jobs.put("done")
    worker.join()


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
