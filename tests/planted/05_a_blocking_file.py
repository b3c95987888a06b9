"""A blocking call in the package: a file is read."""

from importlib import import_module

import pytest

CULPRIT = "io.TextIOWrapper.read"


async def work() -> None:
    with open(__file__, encoding="utf-8") as file:
        file.read()


@pytest.mark.asyncio
async def test_it_works() -> None:
    await import_module("app.planted").work()
