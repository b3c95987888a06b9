"""Tests that are skipped or fail as expected are not checked for leftovers."""

import asyncio

import pytest


async def poll() -> None:
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.xfail(raises=ZeroDivisionError)
@pytest.mark.asyncio
async def test_it_fails_as_expected() -> None:
    task = asyncio.create_task(poll())
    await asyncio.sleep(0)
    assert 1 / 0
    task.cancel()


@pytest.mark.asyncio
async def test_it_is_expected_to_fail() -> None:
    task = asyncio.create_task(poll())
    await asyncio.sleep(0)
    pytest.xfail("not yet")
    task.cancel()


@pytest.mark.asyncio
async def test_it_is_skipped() -> None:
    task = asyncio.create_task(poll())
    await asyncio.sleep(0)
    pytest.skip("no server")
    task.cancel()


@pytest.mark.asyncio
async def test_the_next_test_has_no_other_task() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
