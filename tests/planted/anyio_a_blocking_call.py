"""A blocking call in the package, in a test for the plugin of anyio."""

import time
from importlib import import_module

import pytest

CULPRIT = r"planted.py:18: a blocking call to time.sleep\n"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def work() -> None:
    time.sleep(0.01)


async def test_it_works() -> None:
    await import_module("app.planted").work()
