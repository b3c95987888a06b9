"""A blocking call in the package: a subprocess runs."""

import subprocess
import sys
from importlib import import_module

import pytest

CULPRIT = "a blocking call to "


async def work() -> None:
    subprocess.run([sys.executable, "-c", ""])


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
