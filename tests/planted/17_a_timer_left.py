"""A timer left in the loop."""

import asyncio

import pytest

CULPRIT = r"py:15: a timer left in the loop, created here\n"


def notify() -> None: ...


@pytest.mark.asyncio
async def test_it_notifies() -> None:
    asyncio.get_running_loop().call_later(60, notify)
