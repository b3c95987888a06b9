"""Loops and fixtures of a wider scope are made once, in the order of pytest."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

set_ups: list[str] = []
order: list[str] = []


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def counted() -> AsyncIterator[asyncio.AbstractEventLoop]:
    set_ups.append("session")
    yield asyncio.get_running_loop()


@pytest.fixture(scope="module", params=["a", "b"])
def letter(request: pytest.FixtureRequest) -> Iterator[str]:
    set_ups.append(request.param)
    yield request.param


@pytest.mark.asyncio(loop_scope="session")
async def test_one(counted: asyncio.AbstractEventLoop) -> None:
    assert counted is asyncio.get_running_loop()


def test_between() -> None:
    order.append("between")


@pytest.mark.asyncio(loop_scope="session")
async def test_two(counted: asyncio.AbstractEventLoop) -> None:
    order.append("two")
    assert counted is asyncio.get_running_loop()
    assert set_ups == ["session"]


@pytest.mark.asyncio(loop_scope="module")
async def test_first_with_a_letter(letter: str) -> None:
    order.append(f"first {letter}")


@pytest.mark.asyncio(loop_scope="module")
async def test_second_with_a_letter(letter: str) -> None:
    order.append(f"second {letter}")


def test_the_order_is_that_of_pytest() -> None:
    assert set_ups == ["session", "a", "b"]
    assert order == ["between", "two", "first a", "second a", "first b", "second b"]
