"""The worker: each job has one result, and a worker that is stopped finishes first."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from jobs.brokers import (
    BrokerError,
    BrokerUnavailableError,
    Delivery,
    Recovery,
    Status,
)
from jobs.memory_broker import MemoryBroker
from jobs.messages import Job, Result
from jobs.tasks import Task
from jobs.worker import Worker

StartWork = Callable[[dict[str, Task]], Worker]


class CountingBroker(MemoryBroker):
    """A broker that counts deliveries and heartbeats."""

    def __init__(self) -> None:
        super().__init__(redeliver=30.0)
        self.delivery_number = 1
        self.touches = 0

    async def take(self) -> Delivery | None:
        delivery = await super().take()
        if delivery is not None:
            delivery.number = self.delivery_number
        return delivery

    async def touch(self, delivery: Delivery) -> None:
        self.touches += 1


@pytest.fixture
def broker() -> CountingBroker:
    return CountingBroker()


@pytest_asyncio.fixture
async def start_work(broker: CountingBroker) -> AsyncIterator[StartWork]:
    """Starts a worker with some tasks. It is cancelled after the test."""
    running: list[asyncio.Task[None]] = []

    def start_work(tasks: dict[str, Task]) -> Worker:
        worker = Worker(broker, tasks, concurrency=2, recovery=Recovery(60))
        running.append(asyncio.create_task(worker.work()))
        return worker

    yield start_work
    for work in running:
        work.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def do(
    broker: MemoryBroker,
    task: str,
    argument: Any,
    attempt: int = 1,
    max_attempts: int = 3,
) -> Result:
    """Submit a job and return its result."""
    job = Job(task, argument, broker.inbox, attempt, max_attempts)
    await broker.submit(job.id, job.encode())
    (message,) = await broker.read_results()
    result = Result.decode(message)
    assert result.job_id == job.id
    return result


async def double(text: str) -> str:
    return text * 2


async def fail(text: str) -> str:
    raise OSError(5, text)


# --- Results


@pytest.mark.asyncio
async def test_a_job_is_done(broker: CountingBroker, start_work: StartWork) -> None:
    start_work({"double": double})
    result = await do(broker, "double", "ab")
    assert (result.value, result.error, result.attempt) == ("abab", None, 1)


@pytest.mark.asyncio
async def test_an_exception_is_a_result(
    broker: CountingBroker, start_work: StartWork
) -> None:
    start_work({"fail": fail})
    result = await do(broker, "fail", "the disk stumbles", attempt=2, max_attempts=3)
    assert result.error == "OSError: [Errno 5] the disk stumbles"
    assert (result.attempt, result.is_final) == (2, False)


@pytest.mark.asyncio
async def test_a_task_that_cancels_itself_is_a_failure(
    broker: CountingBroker, start_work: StartWork
) -> None:
    async def cancel(_argument: None) -> None:
        raise asyncio.CancelledError

    start_work({"cancel": cancel, "double": double})
    assert (await do(broker, "cancel", None)).error == "the task was cancelled"
    assert (await do(broker, "double", "x")).value == "xx"


@pytest.mark.asyncio
async def test_a_task_that_the_worker_lacks_is_named(
    broker: CountingBroker, start_work: StartWork
) -> None:
    start_work({"double": double, "fail": fail})
    result = await do(broker, "missing", "x")
    assert result.error == "the worker has no task 'missing', only: double, fail"
    assert not result.is_final  # another worker may have it


@pytest.mark.parametrize("value", [{1}, Path("x"), b"x"], ids=["set", "path", "bytes"])
@pytest.mark.asyncio
async def test_a_result_that_is_not_json_fails_in_memory_too(
    broker: CountingBroker, start_work: StartWork, value: Any
) -> None:
    async def give(_argument: None) -> Any:
        return value

    start_work({"give": give})
    result = await do(broker, "give", None)
    assert result.error is not None
    assert result.error.startswith("the result is not JSON: ")
    assert result.is_final


@pytest.mark.asyncio
async def test_a_result_is_a_copy_in_memory_too(
    broker: CountingBroker, start_work: StartWork
) -> None:
    async def give(_argument: None) -> Any:
        return {1: (2, 3)}

    start_work({"give": give})
    assert (await do(broker, "give", None)).value == {"1": [2, 3]}


@pytest.mark.asyncio
async def test_a_large_result_names_size_and_limit_and_the_worker_continues(
    broker: CountingBroker, start_work: StartWork
) -> None:
    start_work({"double": double})
    result = await do(broker, "double", "x" * 524_288)
    assert result.error is not None
    assert "1,048," in result.error
    assert "1,000,000" in result.error
    assert result.is_final
    assert (await do(broker, "double", "x")).value == "xx"


# --- Dead letters


@pytest.mark.asyncio
async def test_a_job_that_kills_its_workers_is_set_aside(
    broker: CountingBroker, start_work: StartWork
) -> None:
    start_work({"double": double})
    broker.delivery_number = 3
    result = await do(broker, "double", "x", max_attempts=2)
    assert result.error == "2 workers took it and died or lost it"
    assert result.is_final
    ((message, reason),) = broker.dead_letters
    assert Job.decode(message).argument == "x"
    assert reason == "double('x'): 2 workers took it and died or lost it"


@pytest.mark.asyncio
async def test_a_redelivery_is_another_attempt(
    broker: CountingBroker, start_work: StartWork
) -> None:
    start_work({"fail": fail})
    broker.delivery_number = 2
    result = await do(broker, "fail", "x", attempt=2, max_attempts=3)
    assert result.attempt == 3


@pytest.mark.asyncio
async def test_a_message_that_is_not_a_job_is_set_aside(
    broker: CountingBroker, start_work: StartWork
) -> None:
    start_work({"double": double})
    await broker.submit("id", b"not a job")
    assert (await do(broker, "double", "x")).value == "xx"
    assert list(broker.dead_letters) == [(b"not a job", "not JSON: b'not a job'")]


# --- Life and death


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_long_job_is_kept_alive(
    broker: CountingBroker, start_work: StartWork
) -> None:
    async def last(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    start_work({"last": last})
    assert (await do(broker, "last", 95)).value == 95
    assert broker.touches == 9


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_as_many_jobs_run_at_the_same_time_as_allowed(
    broker: CountingBroker, start_work: StartWork
) -> None:
    running: list[None] = []
    peak = 0

    async def count(_argument: None) -> None:
        nonlocal peak
        running.append(None)
        peak = max(peak, len(running))
        await asyncio.sleep(1)
        running.pop()

    start_work({"count": count})
    for number in range(10):
        job = Job("count", None, broker.inbox, id=str(number))
        await broker.submit(job.id, job.encode())
    results: list[bytes] = []
    while len(results) < 10:
        results += await broker.read_results()
    assert peak == 2


class Holding:
    """A task that says when it has begun, and waits until it may end."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def hold(self, argument: str) -> str:
        self.begun.set()
        await self.may_end.wait()
        return argument


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_stopped_worker_finishes_what_it_has_begun(
    broker: CountingBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    holding = Holding()
    tasks: dict[str, Task] = {"hold": holding.hold}
    worker = Worker(broker, tasks, concurrency=1, recovery=Recovery(60))
    serving = asyncio.create_task(worker.serve())
    result = asyncio.create_task(do(broker, "hold", "x"))
    await holding.begun.wait()
    await broker.submit("later", Job("hold", "later", "inbox").encode())
    serving.cancel()
    await asyncio.sleep(100)
    assert not serving.done()
    holding.may_end.set()
    assert (await result).value == "x"
    await serving
    assert await broker.status("later") == Status.QUEUED
    assert "stopping; jobs to finish: 1" in caplog.text


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_idle_worker_stops_soon(broker: CountingBroker) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(broker, {}, concurrency=4, recovery=Recovery(60))
    serving = asyncio.create_task(worker.serve())
    await asyncio.sleep(10)
    serving.cancel()
    await serving
    assert loop.time() <= 11


@pytest.mark.asyncio
async def test_a_second_cancellation_leaves_the_jobs(broker: CountingBroker) -> None:
    holding = Holding()
    tasks: dict[str, Task] = {"hold": holding.hold}
    worker = Worker(broker, tasks, concurrency=1, recovery=Recovery(60))
    serving = asyncio.create_task(worker.serve())
    await broker.submit("id", Job("hold", "x", broker.inbox).encode())
    await holding.begun.wait()
    serving.cancel()
    await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()


class BreakingBroker(CountingBroker):
    """A broker that is not available, or refuses results, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BrokerError | None = None

    async def take(self) -> Delivery | None:
        if isinstance(self.error, BrokerUnavailableError):
            raise self.error
        return await super().take()

    async def finish(
        self, delivery: Delivery, inbox: str | None, result: bytes
    ) -> None:
        if self.error is not None:
            raise self.error
        await super().finish(delivery, inbox, result)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_worker_ends_when_the_broker_is_unavailable_for_too_long() -> None:
    broker = BreakingBroker()
    broker.error = BrokerUnavailableError("connection refused")
    worker = Worker(broker, {}, concurrency=2, recovery=Recovery(60))
    with pytest.raises(ExceptionGroup) as caught:
        await worker.serve()
    assert caught.group_contains(
        BrokerUnavailableError, match="available for 60 s: connection refused"
    )


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_worker_can_be_stopped_while_the_broker_is_unavailable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It gives the broker a few seconds to take the results, and no more."""
    loop = asyncio.get_running_loop()
    broker = BreakingBroker()
    holding = Holding()
    tasks: dict[str, Task] = {"hold": holding.hold}
    worker = Worker(broker, tasks, concurrency=2, recovery=Recovery(3600))
    serving = asyncio.create_task(worker.serve())
    await broker.submit("id", Job("hold", "x", broker.inbox).encode())
    await holding.begun.wait()
    broker.error = BrokerUnavailableError("connection refused")
    await asyncio.sleep(100)
    serving.cancel()
    holding.may_end.set()
    await serving
    assert loop.time() < 120
    assert "cannot send a result" in caplog.text


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_result_that_is_refused_is_logged_and_the_worker_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = BreakingBroker()
    broker.error = BrokerError("out of memory")
    worker = Worker(broker, {"double": double}, concurrency=1, recovery=Recovery(60))
    serving = asyncio.create_task(worker.serve())
    await broker.submit("id", Job("double", "x", broker.inbox).encode())
    await asyncio.sleep(5)
    assert "cannot send a result: out of memory" in caplog.text
    broker.error = None
    assert (await do(broker, "double", "y")).value == "yy"
    serving.cancel()
    await serving
