"""The guards do not change when async generators end."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from types import AsyncGeneratorType

import pytest

lock = asyncio.Lock()


async def one() -> AsyncIterator[int]:
    yield 1


@pytest.mark.asyncio
async def test_finished_generators_are_not_kept() -> None:
    for _ in range(5_000):
        async for _number in one():
            pass
    alive = [found for found in gc.get_objects() if type(found) is AsyncGeneratorType]
    assert len(alive) < 100


@pytest.mark.asyncio
async def test_an_exhausted_generator_is_collected() -> None:
    generator = one()
    gone = weakref.ref(generator)
    assert [number async for number in generator] == [1]
    del generator
    assert gone() is None


async def locked() -> AsyncIterator[int]:
    async with lock:
        yield 1
        yield 2


@pytest.mark.leaves_generators
@pytest.mark.asyncio
async def test_a_dropped_generator_releases_its_lock() -> None:
    async for _ in locked():
        break
    await asyncio.sleep(0.01)
    assert not lock.locked()
