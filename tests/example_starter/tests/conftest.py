"""The arguments with which tests/test_main.py starts the program."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import IO

import pytest


@pytest.fixture
def working_args() -> list[str]:
    return ["Ada"]


@pytest.fixture
def failing_args() -> list[str]:
    return ["--delay", "-1"]


@pytest.fixture
def busy_args() -> list[str]:
    return ["--delay", "60"]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    async def wait(_stdout: IO[str], stderr: IO[str]) -> str:
        return await asyncio.to_thread(stderr.readline)

    return wait


@pytest.fixture
def drains() -> bool:
    return False
