"""The submitter: limits, retries, and a reason for every failure."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from jobs.brokers import (
    BrokerError,
    BrokerUnavailableError,
    Recovery,
    Status,
)
from jobs.memory_broker import MemoryBroker
from jobs.messages import Result
from jobs.submitter import Submitter
from jobs.tasks import Task
from jobs.worker import Worker


class Tasks:
    """The tasks of these tests."""

    def __init__(self) -> None:
        self.attempts: list[float] = []

    async def double(self, text: str) -> str:
        return text * 2

    async def sleep(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def stumble(self, failures: int) -> str:
        """Fail a number of times."""
        self.attempts.append(asyncio.get_running_loop().time())
        if len(self.attempts) <= failures:
            raise OSError(5, "the disk stumbles")
        return "done"

    async def give_set(self, _argument: None) -> Any:
        self.attempts.append(0.0)
        return {1}


class Reports:
    """What has been reported."""

    def __init__(self) -> None:
        self.results: list[tuple[Any, Result]] = []

    def add(self, argument: Any, result: Result) -> None:
        self.results.append((argument, result))

    @property
    def values(self) -> list[tuple[Any, Any]]:
        return [(argument, result.value) for argument, result in self.results]

    @property
    def errors(self) -> list[str | None]:
        return [result.error for _, result in self.results]


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def broker() -> MemoryBroker:
    """A broker without a worker."""
    return MemoryBroker()


@pytest_asyncio.fixture
async def worker(broker: MemoryBroker, tasks: Tasks) -> AsyncIterator[Worker]:
    """A worker for the broker, with many slots."""
    functions: dict[str, Task] = {
        "double": tasks.double,
        "sleep": tasks.sleep,
        "stumble": tasks.stumble,
        "give_set": tasks.give_set,
    }
    worker = Worker(broker, functions, concurrency=50, recovery=Recovery(60))
    work = asyncio.create_task(worker.work())
    yield worker
    work.cancel()
    await asyncio.wait([work])


def submitter(broker: MemoryBroker, **options: Any) -> Submitter:
    return Submitter(broker, Recovery(60), **options)


# --- Limits


@pytest.mark.usefixtures("worker")
@pytest.mark.asyncio
async def test_each_argument_is_reported_once(
    broker: MemoryBroker, reports: Reports
) -> None:
    arguments = [str(number) for number in range(300)]
    await submitter(broker, concurrency=8).run("double", arguments, reports.add)
    assert sorted(reports.values) == sorted((text, text * 2) for text in arguments)


@pytest.mark.asyncio
async def test_nothing_to_do_needs_no_worker(
    broker: MemoryBroker, reports: Reports
) -> None:
    await submitter(broker).run("double", [], reports.add)
    assert reports.results == []


@pytest.mark.usefixtures("worker")
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_as_many_jobs_are_submitted_at_the_same_time_as_allowed(
    broker: MemoryBroker, reports: Reports
) -> None:
    started = asyncio.get_running_loop().time()
    await submitter(broker, concurrency=10).run("sleep", [1.0] * 25, reports.add)
    assert asyncio.get_running_loop().time() - started == pytest.approx(3, abs=0.01)


@pytest.mark.usefixtures("worker")
@pytest.mark.asyncio
async def test_arguments_are_read_only_when_there_is_room(
    broker: MemoryBroker, reports: Reports
) -> None:
    most_ahead = 0

    def arguments() -> Iterator[str]:
        nonlocal most_ahead
        for number in range(100):
            most_ahead = max(most_ahead, number - len(reports.results))
            yield str(number)

    await submitter(broker, concurrency=4).run("double", arguments(), reports.add)
    assert len(reports.results) == 100
    assert most_ahead <= 4


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"attempts": 0}, {"timeout": 0.0}]
)
def test_a_limit_that_is_not_positive_is_refused(
    broker: MemoryBroker, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}=0"):
        submitter(broker, **options)


@pytest.mark.usefixtures("worker")
@pytest.mark.asyncio
async def test_an_error_in_the_report_ends_the_run(broker: MemoryBroker) -> None:
    def refuse(_argument: str, _result: Result) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ExceptionGroup) as caught:
        await submitter(broker).run("double", ["a"], refuse)
    assert caught.group_contains(OSError, match="No space left")


@pytest.mark.asyncio
async def test_a_cancelled_run_leaves_nothing_behind(
    broker: MemoryBroker, reports: Reports
) -> None:
    running = submitter(broker)
    task = asyncio.create_task(running.run("double", ["a"], reports.add))
    assert await broker.take() is not None
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert running._pending == {}


# --- Attempts


@pytest.mark.usefixtures("worker")
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_job_that_fails_is_attempted_again_after_growing_pauses(
    broker: MemoryBroker,
    tasks: Tasks,
    reports: Reports,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await submitter(broker, attempts=4).run("stumble", [3], reports.add)
    assert reports.values == [(3, "done")]
    pauses = [after - before for before, after in pairwise(tasks.attempts)]
    for pause, least in zip(pauses, [0.1, 0.2, 0.4], strict=True):
        assert least <= pause <= 2 * least + 0.01
    reason = "stumble(3): OSError: [Errno 5] the disk stumbles"
    assert [record.message[:22] for record in caplog.records] == [
        f"attempt {number} of 4 failed," for number in (1, 2, 3)
    ]
    assert all(record.message.endswith(reason) for record in caplog.records)


@pytest.mark.usefixtures("worker")
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_job_that_keeps_failing_has_its_last_error(
    broker: MemoryBroker, tasks: Tasks, reports: Reports
) -> None:
    await submitter(broker, attempts=3).run("stumble", [9], reports.add)
    assert reports.errors == ["OSError: [Errno 5] the disk stumbles"]
    assert len(tasks.attempts) == 3


@pytest.mark.usefixtures("worker")
@pytest.mark.asyncio
async def test_what_would_fail_again_is_not_attempted_again(
    broker: MemoryBroker, tasks: Tasks, reports: Reports
) -> None:
    await submitter(broker, attempts=3).run("give_set", [None], reports.add)
    assert reports.errors == [
        "the result is not JSON: Object of type set is not JSON serializable"
    ]
    assert len(tasks.attempts) == 1


@pytest.mark.asyncio
async def test_an_argument_that_cannot_be_sent_is_a_failure(
    broker: MemoryBroker, reports: Reports
) -> None:
    await submitter(broker).run("double", [b"x", "x" * 2_000_000], reports.add)
    assert reports.errors[0] == (
        "the argument of double is not JSON: "
        "Object of type bytes is not JSON serializable"
    )
    assert "and the limit is 1,000,000" in str(reports.errors[1])


# --- Silence


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_without_a_worker_it_warns_after_some_seconds(
    broker: MemoryBroker, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    run = submitter(broker, timeout=30.0, attempts=1).run(
        "double", ["a", "b"], reports.add
    )
    task = asyncio.create_task(run)
    await asyncio.sleep(11)
    (record,) = caplog.records
    assert record.message.startswith("no worker has taken a job for ")
    assert "(2 are waiting)" in record.message
    await task
    assert reports.errors == ["no result within 30 s: no worker has taken it"] * 2
    assert len(caplog.records) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_warning_comes_again_every_minute(
    broker: MemoryBroker, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    run = submitter(broker, timeout=200.0, attempts=1)
    await run.run("double", ["a"], reports.add)
    assert len(caplog.records) == 4


@pytest.mark.usefixtures("worker")
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_worker_that_is_busy_is_no_reason_for_a_warning(
    broker: MemoryBroker, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await submitter(broker).run("sleep", [100.0], reports.add)
    assert reports.errors == [None]
    assert caplog.records == []


@pytest.mark.usefixtures("worker")
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_job_that_takes_too_long_fails(
    broker: MemoryBroker, reports: Reports
) -> None:
    await submitter(broker, timeout=20.0, attempts=2).run("sleep", [60.0], reports.add)
    assert reports.errors == ["no result within 20 s: a worker has taken it"]


class ForgetfulBroker(MemoryBroker):
    """A broker that loses the first job."""

    lost = False

    async def submit(self, job_id: str, message: bytes) -> str:
        if not self.lost:
            self.lost = True
            return job_id
        return await super().submit(job_id, message)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_job_that_the_broker_loses_is_submitted_again(
    reports: Reports, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    broker = ForgetfulBroker()
    worker = Worker(
        broker, {"double": tasks.double}, concurrency=1, recovery=Recovery(60)
    )
    async with asyncio.TaskGroup() as group:
        work = group.create_task(worker.work())
        await submitter(broker).run("double", ["a"], reports.add)
        work.cancel()
    assert reports.values == [("a", "aa")]
    assert "the broker has lost the job or its result" in caplog.text


class GarbageBroker(MemoryBroker):
    """A broker whose first result is not readable."""

    garbage = True

    async def read_results(self) -> list[bytes]:
        if self.garbage:
            self.garbage = False
            return [b"\xff"]
        return await super().read_results()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_result_that_cannot_be_read_is_logged(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    run = submitter(GarbageBroker(), timeout=1.0, attempts=1)
    await run.run("double", ["a"], reports.add)
    assert "ignored: not JSON: b'\\xff'" in caplog.text


class RefusingBroker(MemoryBroker):
    """A broker that takes no jobs."""

    def __init__(self, error: BrokerError) -> None:
        super().__init__()
        self.error = error

    async def submit(self, job_id: str, message: bytes) -> str:
        raise self.error


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_full_broker_is_the_reason_of_the_failure(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RefusingBroker(BrokerError("out of memory"))
    await submitter(broker, attempts=2).run("double", ["a"], reports.add)
    assert reports.errors == ["out of memory"]
    assert "attempt 1 of 2 failed" in caplog.text


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_broker_that_is_unavailable_for_too_long_ends_the_run(
    reports: Reports,
) -> None:
    broker = RefusingBroker(BrokerUnavailableError("connection refused"))
    with pytest.raises(ExceptionGroup) as caught:
        await submitter(broker).run("double", ["a"], reports.add)
    assert caught.group_contains(
        BrokerUnavailableError, match="available for 60 s", depth=2
    )
    assert reports.results == []


@pytest.mark.asyncio
async def test_a_second_result_of_a_job_is_ignored(
    broker: MemoryBroker, reports: Reports
) -> None:
    """A job that is delivered twice is done twice."""
    running = asyncio.create_task(
        submitter(broker).run("double", ["a"], reports.add),
    )
    delivery = None
    while delivery is None:
        delivery = await broker.take()
    result = Result(delivery.receipt, 1, "aa").encode()
    await broker.finish(delivery, broker.inbox, result)
    await broker.finish(delivery, broker.inbox, result)
    await running
    assert reports.values == [("a", "aa")]
    assert await broker.status(delivery.receipt) == Status.GONE
