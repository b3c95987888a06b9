"""A test that hangs, for the plugin of anyio."""

import asyncio

import pytest

CULPRIT = r"py:19: no end after 0.3 s\n    await ready.wait\(\)"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.deadline(0.3)
async def test_it_gets_ready() -> None:
    ready = asyncio.Event()
    await ready.wait()
