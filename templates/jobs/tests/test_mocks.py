"""AsyncMock and pytest-mock where a broker is involved: one technique in each test."""

import asyncio
from unittest.mock import AsyncMock, call, create_autospec

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext
from pytest_mock import MockerFixture

from jobs.brokers import (
    BrokerUnavailableError,
    Delivery,
    Recovery,
    Status,
)
from jobs.memory_broker import MemoryBroker
from jobs.messages import Result
from jobs.nats_broker import NatsBroker
from jobs.submitter import Submitter
from jobs.worker import Worker


# 1. An autospec has the names and signatures of the real class. What is async there is
# async in the mock: it is awaited, and `assert_awaited_once_with` checks that.
@pytest.mark.asyncio
async def test_a_job_is_touched_by_a_message_to_nats() -> None:
    client = create_autospec(Client, instance=True)
    client.max_payload = 1_048_576
    message = create_autospec(Msg, instance=True)
    broker = NatsBroker(client, redeliver=30.0)
    await broker.touch(Delivery(b"a job", number=1, receipt=message))
    message.in_progress.assert_awaited_once_with()


# 2. A list of side effects: exceptions are raised, other values are returned.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_operation_is_repeated_while_the_broker_is_unavailable() -> None:
    broker = create_autospec(MemoryBroker, instance=True)
    error = BrokerUnavailableError("connection refused")
    broker.submit.side_effect = [error, error, "receipt"]
    receipt = await Recovery(60).call(broker.submit, "id", b"a job")
    assert receipt == "receipt"
    assert broker.submit.await_args_list == [call("id", b"a job")] * 3


# 3. A side effect that is a coroutine function can wait, here without an end.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_job_without_a_result_times_out(mocker: MockerFixture) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    broker = create_autospec(MemoryBroker, instance=True)
    broker.inbox = "inbox"
    broker.max_message_bytes = 1000
    broker.read_results.side_effect = hang
    report = mocker.stub()
    submitter = Submitter(broker, Recovery(60), attempts=1, timeout=2.0)
    await submitter.run("double", ["a"], report)
    ((argument, result), _) = report.call_args
    assert argument == "a"
    assert result.error == "no result within 2 s: no worker has taken it"


# 4. `called` is not `awaited`: a coroutine that is not awaited has done nothing.
@pytest.mark.asyncio
async def test_a_call_alone_does_not_publish() -> None:
    jetstream = create_autospec(JetStreamContext, instance=True)
    publishing = jetstream.publish("jobs", b"a job")
    jetstream.publish.assert_called_once()
    jetstream.publish.assert_not_awaited()
    await publishing
    jetstream.publish.assert_awaited_once_with("jobs", b"a job")


# 5. A spy calls the real method and counts.
@pytest.mark.asyncio
async def test_a_job_that_succeeds_is_submitted_once(mocker: MockerFixture) -> None:
    broker = MemoryBroker()
    submit = mocker.spy(broker, "submit")
    double = AsyncMock(spec=asyncio.sleep, return_value="aa")
    worker = Worker(broker, {"double": double}, concurrency=1, recovery=Recovery(60))
    async with asyncio.TaskGroup() as group:
        work = group.create_task(worker.work())
        await Submitter(broker, Recovery(60)).run("double", ["a"], mocker.stub())
        work.cancel()
    assert submit.await_count == 1
    double.assert_awaited_once_with("a")


# 6. A stub replaces a callback that is only called.
@pytest.mark.asyncio
async def test_each_result_is_reported(mocker: MockerFixture) -> None:
    broker = MemoryBroker()
    shout = mocker.async_stub()
    shout.side_effect = ["A", "B"]
    report = mocker.stub()
    worker = Worker(broker, {"shout": shout}, concurrency=1, recovery=Recovery(60))
    async with asyncio.TaskGroup() as group:
        work = group.create_task(worker.work())
        submitter = Submitter(broker, Recovery(60), concurrency=1)
        await submitter.run("shout", ["a", "b"], report)
        work.cancel()
    results: list[Result] = [each.args[1] for each in report.call_args_list]
    assert [result.value for result in results] == ["A", "B"]


# 7. A patched method, for one test. `autospec=True` checks the arguments too, and
# records `self`.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_job_that_is_in_work_is_not_reported_as_waiting(
    mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    taken = Status.TAKEN
    mocker.patch.object(MemoryBroker, "status", autospec=True, return_value=taken)
    broker = MemoryBroker()
    submitter = Submitter(broker, Recovery(60), attempts=1, timeout=60.0)
    await submitter.run("double", ["a"], mocker.stub())
    assert "no worker has taken a job" not in caplog.text
