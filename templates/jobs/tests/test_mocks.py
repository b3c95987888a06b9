"""AsyncMock and pytest-mock where a broker is involved: each test is one way to use
them.
"""

import asyncio
from contextlib import suppress
from typing import Any
from unittest.mock import call, create_autospec

import pytest
from nats.js.kv import KeyValue
from pytest_mock import MockerFixture
from taskiq import AsyncResultBackend, InMemoryBroker, TaskiqResult, async_shared_broker

from jobs.app import Results, connected, run

DONE = TaskiqResult[Any](is_err=False, return_value="done", execution_time=0.0)


@async_shared_broker.task
async def shout(item: str) -> str:
    return item.upper()


def results(bucket: Any) -> Results:
    """Results in a mocked bucket."""
    made = Results()
    made.bucket = bucket
    return made


# 1. An autospec has the names and signatures of the real thing; what is async stays
# async.
@pytest.mark.asyncio
async def test_a_result_is_put_under_the_name_of_its_task() -> None:
    bucket = create_autospec(KeyValue, instance=True)
    await results(bucket).set_result("name", DONE)
    bucket.put.assert_awaited_once()
    assert bucket.put.await_args.args[0] == "name"


# 2. A list of side effects: errors are raised, the rest is returned, one for each call.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_result_is_put_again_until_the_broker_has_it() -> None:
    bucket = create_autospec(KeyValue, instance=True)
    bucket.put.side_effect = [TimeoutError, ConnectionError, 1]
    await results(bucket).set_result("name", DONE)
    assert bucket.put.await_count == 3


# 3. What one mock was given, another one returns.
@pytest.mark.asyncio
async def test_a_result_comes_out_as_it_went_in() -> None:
    bucket = create_autospec(KeyValue, instance=True)
    await results(bucket).set_result("name", DONE)
    name, value = bucket.put.await_args.args
    bucket.get.return_value = KeyValue.Entry("bucket", name, value, 1, None, None, None)
    assert (await results(bucket).get_result("name")).return_value == "done"


# 4. A side effect that waits for ever is a broker that hangs.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_broker_that_hangs_can_be_left() -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    bucket = create_autospec(KeyValue, instance=True)
    bucket.get.side_effect = hang
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await results(bucket).get_result("name")
    bucket.get.assert_called_once()


# 5. And one that swallows a cancellation is a library with a flaw.
@pytest.mark.asyncio
async def test_a_cancellation_that_a_library_swallows_still_ends_the_run(
    mocker: MockerFixture,
) -> None:
    asked = asyncio.Event()

    async def swallow(*_: object, **__: object) -> None:
        asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise KeyError

    async with connected("memory://") as broker, asyncio.TaskGroup() as group:
        backend = broker.result_backend = create_autospec(
            AsyncResultBackend, instance=True
        )
        backend.get_result.side_effect = swallow
        running = group.create_task(run(broker, shout, ["a"], mocker.stub()))
        await asked.wait()
        running.cancel()
    assert running.cancelled()


# 6. A spy lets the real thing work, and counts.
@pytest.mark.asyncio
async def test_a_task_that_works_is_submitted_once(mocker: MockerFixture) -> None:
    kick = mocker.spy(InMemoryBroker, "kick")
    async with connected("memory://") as broker:
        await run(broker, shout, "abc", mocker.stub())
    assert kick.await_count == 3


# 7. A stub stands for a callback that only listens.
@pytest.mark.asyncio
async def test_each_result_is_reported(mocker: MockerFixture) -> None:
    report = mocker.stub()
    async with connected("memory://") as broker:
        await run(broker, shout, "ab", report)
    assert sorted(report.call_args_list) == [call("a", "A"), call("b", "B")]


# 8. A mock in the place of a part, here of the results: it is not there, twice, and
# then it is.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_result_is_asked_for_until_it_is_there(mocker: MockerFixture) -> None:
    report = mocker.stub()
    async with connected("memory://") as broker:
        backend = broker.result_backend = create_autospec(
            AsyncResultBackend, instance=True
        )
        backend.get_result.side_effect = [KeyError, KeyError, DONE]
        await run(broker, shout, ["a"], report)
    report.assert_called_once_with("a", "done")
