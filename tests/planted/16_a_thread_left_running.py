"""A thread left running."""

import threading

import pytest

CULPRIT = "a thread left running: .*worker"
stop = threading.Event()


@pytest.mark.asyncio
async def test_it_works() -> None:
    threading.Thread(target=stop.wait, args=(5,), name="worker", daemon=True).start()
