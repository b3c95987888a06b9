"""A blocking call in the package: a shell command runs."""

import os
from importlib import import_module

import pytest

CULPRIT = r"planted.py:12: a blocking call to os.system\n"


async def work() -> None:
    os.system("exit 0")


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
