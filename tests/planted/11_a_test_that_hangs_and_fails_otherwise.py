"""A test that hangs and, once it is cancelled, fails with another error."""

import asyncio

import pytest

CULPRIT = r"no end after 0.3 s(.|\n)*await ready.wait\(\)\n"


@pytest.mark.deadline(0.3)
@pytest.mark.asyncio
async def test_it_gets_ready() -> None:
    ready = asyncio.Event()
    try:
        await ready.wait()
    finally:
        assert ready.is_set()
