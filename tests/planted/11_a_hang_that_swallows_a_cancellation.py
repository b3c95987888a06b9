"""A test that hangs and swallows the first cancellation."""

import asyncio
from contextlib import suppress

import pytest

CULPRIT = "await ready.wait()"


@pytest.mark.deadline(0.3)
@pytest.mark.asyncio
async def test_it_gets_ready() -> None:
    ready = asyncio.Event()
    with suppress(asyncio.CancelledError):
        await ready.wait()
    await ready.wait()
