"""Brokers: the same promises from each one, clear errors, and recovery."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from jobs.brokers import (
    PREFIX,
    Broker,
    BrokerError,
    BrokerUnavailableError,
    Delivery,
    Recovery,
    Status,
    connected,
)
from jobs.redis_broker import DRIVER

REDELIVER = 0.5  # seconds

LoseData = Callable[[], Awaitable[None]]


@pytest.fixture(params=["memory", "nats", "redis"])
def any_url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of broker, one after the other."""
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest_asyncio.fixture
async def broker(any_url: str) -> AsyncIterator[Broker]:
    """A connection to each kind of broker, one after the other."""
    async with connected(any_url, REDELIVER) as broker:
        yield broker


async def take(broker: Broker) -> Delivery:
    """Return the next delivery, however long that takes."""
    while True:
        delivery = await broker.take()
        if delivery is not None:
            return delivery


async def read_result(broker: Broker) -> bytes:
    """Return the next result, however long that takes."""
    while True:
        results = await broker.read_results()
        if results:
            assert len(results) == 1
            return results[0]


# --- What each broker promises


@pytest.mark.asyncio
async def test_a_job_and_its_result_arrive_as_they_were_sent(broker: Broker) -> None:
    await broker.submit("id", b"a job")
    delivery = await take(broker)
    assert (delivery.message, delivery.number) == (b"a job", 1)
    await broker.finish(delivery, broker.inbox, b"a result")
    assert await read_result(broker) == b"a result"


@pytest.mark.asyncio
async def test_the_status_says_where_a_job_is(broker: Broker) -> None:
    receipt = await broker.submit("id", b"a job")
    assert await broker.status(receipt) == Status.QUEUED
    delivery = await take(broker)
    assert await broker.status(receipt) == Status.TAKEN
    await broker.finish(delivery, broker.inbox, b"a result")
    assert await read_result(broker) == b"a result"
    assert await broker.status(receipt) == Status.GONE


@pytest.mark.asyncio
async def test_many_results_arrive_each_once(broker: Broker) -> None:
    for number in range(300):
        await broker.submit(f"id-{number}", b"a job")
        delivery = await take(broker)
        await broker.finish(delivery, broker.inbox, str(number).encode())
    results: list[bytes] = []
    while len(results) < 300:
        results += await broker.read_results()
    assert sorted(map(int, results)) == list(range(300))


@pytest.mark.asyncio
async def test_hundreds_of_operations_can_run_at_the_same_time(url: str) -> None:
    """By default, redis-py allows 100 connections, and NATS 512 waiting requests."""
    count = 1500 if url.startswith("nats:") else 150  # a Redis connection for each
    async with connected(url) as broker:
        assert await broker.take() is None
        takes = [broker.take() for _ in range(count)]
        outcomes = await asyncio.gather(*takes, return_exceptions=True)
        refusals = [str(outcome) for outcome in outcomes if outcome is not None]
        assert not any("MaxWaiting" in refusal for refusal in refusals)
        assert not any("Too many" in refusal for refusal in refusals)
        submits = [broker.submit(f"id-{number}", b"a job") for number in range(300)]
        assert len({*await asyncio.gather(*submits)}) == 300


@pytest.mark.asyncio
async def test_preparing_again_changes_nothing(broker: Broker) -> None:
    receipt = await broker.submit("id", b"a job")
    await broker.prepare()
    assert await broker.status(receipt) == Status.QUEUED


@pytest.mark.asyncio
async def test_each_of_many_jobs_is_taken_once(url: str) -> None:
    async with connected(url) as one, connected(url) as two:
        for number in range(60):
            await one.submit(f"id-{number}", str(number).encode())
        takes = [take(broker) for broker in (one, two) for _ in range(30)]
        deliveries = await asyncio.gather(*takes)
    messages = sorted(int(delivery.message) for delivery in deliveries)
    assert messages == list(range(60))


@pytest.mark.asyncio
async def test_results_go_to_the_inbox_of_the_submitter_only(url: str) -> None:
    async with connected(url) as worker, connected(url) as one, connected(url) as two:
        await one.submit("id", b"a job")
        await worker.finish(await take(worker), one.inbox, b"for one")
        assert await read_result(one) == b"for one"
        assert await two.read_results() == []


@pytest.mark.asyncio
async def test_a_job_that_is_not_finished_is_delivered_again(url: str) -> None:
    async with connected(url, REDELIVER) as dead, connected(url, REDELIVER) as other:
        await dead.submit("id", b"a job")
        assert (await take(dead)).number == 1
        assert (await take(other)).number == 2
        assert (await take(other)).number == 3


@pytest.mark.asyncio
async def test_a_job_that_is_touched_stays_with_its_worker(url: str) -> None:
    async with connected(url, 1.5) as slow, connected(url, 1.5) as other:
        await slow.submit("id", b"a job")
        delivery = await take(slow)
        for _ in range(3):
            assert await other.take() is None  # this lasts a second
            await slow.touch(delivery)
        await slow.finish(delivery, slow.inbox, b"a result")


@pytest.mark.asyncio
async def test_a_server_that_has_lost_its_data_can_be_used_again(
    url: str, lose_data: LoseData
) -> None:
    """Both sides notice it: the worker when it takes, the submitter when it looks."""
    recovery = Recovery(10)
    async with connected(url, REDELIVER) as worker, connected(url) as submitter:
        assert await worker.take() is None
        assert await submitter.read_results() == []
        lost = await submitter.submit("id", b"a job")
        await lose_data()
        await submitter.prepare()
        assert await submitter.status(lost) == Status.GONE
        await submitter.submit("other", b"another job")
        delivery = None
        while delivery is None:
            delivery = await recovery.call(worker.take)
        await worker.finish(delivery, submitter.inbox, b"a result")
        assert await read_result(submitter) == b"a result"


@pytest.mark.asyncio
async def test_jobs_can_be_submitted_right_after_the_data_was_lost(
    url: str, lose_data: LoseData
) -> None:
    async with connected(url) as broker:
        await lose_data()
        await Recovery(10).call(broker.submit, "id", b"a job")
        assert (await take_patiently(broker)).message == b"a job"


async def take_patiently(broker: Broker) -> Delivery:
    """Return the next delivery, through outages too."""
    recovery = Recovery(10)
    while True:
        delivery = await recovery.call(broker.take)
        if delivery is not None:
            return delivery


# --- What stays on the server


@pytest.mark.asyncio
async def test_redis_keeps_nothing_but_the_empty_stream_of_jobs(redis_url: str) -> None:
    async with Redis.from_url(redis_url, driver_info=DRIVER) as redis:
        async with connected(redis_url) as broker:
            await broker.submit("id", b"a job")
            await broker.finish(await take(broker), broker.inbox, b"a result")
            assert {*await redis.keys()} == {
                f"{PREFIX}:jobs".encode(),
                f"{PREFIX}:results:{broker.inbox}".encode(),
            }
            assert 0 < await redis.ttl(f"{PREFIX}:results:{broker.inbox}") <= 86_400
            await read_result(broker)
            assert await redis.xlen(f"{PREFIX}:jobs") == 0
            assert await redis.xlen(f"{PREFIX}:results:{broker.inbox}") == 0
        assert await redis.keys() == [f"{PREFIX}:jobs".encode()]
        assert await redis.xinfo_consumers(f"{PREFIX}:jobs", "workers") == []


@pytest.mark.asyncio
async def test_nats_keeps_empty_streams_only(nats_url: str) -> None:
    async with connected(nats_url) as broker:
        await broker.submit("id", b"a job")
        await broker.finish(await take(broker), broker.inbox, b"a result")
        assert await read_result(broker) == b"a result"
        await broker.submit("unread", b"a job")
        await broker.finish(await take(broker), broker.inbox, b"not read")
    client = await nats.connect(nats_url)
    streams = await client.jetstream().streams_info()
    await client.close()
    ours = [stream for stream in streams if str(stream.config.name).startswith(PREFIX)]
    assert len(ours) == 3
    assert [stream.state.messages for stream in ours] == [0, 0, 0]
    streams_by_name = {stream.config.name: stream for stream in ours}
    results = streams_by_name[f"{PREFIX}-results"]
    assert results.state.consumer_count == 0
    assert results.config.max_age == 86_400
    assert streams_by_name[f"{PREFIX}-dead-letters"].config.max_msgs == 10_000


@pytest.mark.asyncio
async def test_a_dead_letter_has_the_job_and_the_reason(
    url: str, dead_letters: Callable[[], Awaitable[list[tuple[bytes, str]]]]
) -> None:
    async with connected(url) as broker:
        await broker.submit("id", b"a job")
        delivery = await take(broker)
        await broker.keep_dead_letter(delivery, "its worker\ndied")
        await broker.finish(delivery, None, b"")
        ((message, reason),) = await dead_letters()
    assert message == b"a job"
    assert reason.startswith("its worker")
    assert reason.endswith("died")


# --- Servers that refuse


@pytest.mark.asyncio
async def test_nats_without_jetstream_is_named(nats_server: Any) -> None:
    await asyncio.to_thread(nats_server.start, "-m", "0")
    with pytest.raises(BrokerError, match="start NATS with -js"):
        async with connected(nats_server.url):
            pass


@pytest.mark.asyncio
async def test_a_nats_password_may_contain_any_character(nats_server: Any) -> None:
    folder = str(nats_server.folder)
    await asyncio.to_thread(
        nats_server.start, "-js", "-sd", folder, "--user", "me", "--pass", "p@s/s:"
    )
    host = f"127.0.0.1:{nats_server.port}"
    async with connected(f"nats://me:p%40s%2Fs%3A@{host}") as broker:
        await broker.submit("id", b"a job")


@pytest.mark.asyncio
async def test_a_nats_token_is_sent(nats_server: Any) -> None:
    options = ("-js", "-sd", str(nats_server.folder), "--auth", "t@ken")
    await asyncio.to_thread(nats_server.start, *options)
    async with connected(f"nats://t%40ken@127.0.0.1:{nats_server.port}") as broker:
        await broker.submit("id", b"a job")


@pytest.mark.asyncio
async def test_a_redis_password_may_contain_any_character(redis_server: Any) -> None:
    await asyncio.to_thread(redis_server.start)
    await redis_server.configure("requirepass", "p@ss")
    url = f"redis://:p%40ss@127.0.0.1:{redis_server.port}"
    async with connected(url) as broker:
        await broker.submit("id", b"a job")


@pytest.mark.asyncio
async def test_a_wrong_password_is_refused_without_being_printed(
    nats_server: Any, redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(nats_server.start, "-js", "--user", "me", "--pass", "right")
    await asyncio.to_thread(redis_server.start)
    await redis_server.configure("requirepass", "right")
    for scheme, server in (("nats", nats_server), ("redis", redis_server)):
        url = f"{scheme}://me:wr0ng@127.0.0.1:{server.port}"
        with pytest.raises(BrokerError) as caught:
            async with connected(url):
                pass
        message = str(caught.value)
        assert message.startswith(f"no broker at {scheme}://me:***@127.0.0.1:")
        assert len(message.splitlines()) == 1
        assert "wr0ng" not in message
    assert "wr0ng" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "htp://x",
        "nats://127.0.0.1:1",
        "redis://127.0.0.1:1",
        "nats://127.0.0.1:port",
        "redis://127.0.0.1:port",
        "nats://",
        "redis://no-such-host.invalid",
        "nats://no-such-host.invalid",
    ],
)
@pytest.mark.asyncio
async def test_a_wrong_url_is_one_line(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BrokerError) as caught:
        async with connected(url):
            pass
    message = str(caught.value)
    assert message.startswith(f"no broker at {url}: ")
    assert len(message) > len(f"no broker at {url}: ")
    assert len(message.splitlines()) == 1
    assert caplog.text == ""


@pytest.mark.parametrize("scheme", ["nats", "redis"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_is_an_error_after_some_seconds(
    scheme: str,
) -> None:
    async def listen(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(BrokerError, match=r"no broker at .*: .+"):
            async with connected(f"{scheme}://{host}:{port}"):
                pass


@pytest.mark.parametrize("library", ["nats", "redis"])
@pytest.mark.asyncio
async def test_a_missing_library_is_named(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Broker.__module__.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, f"{package}.{library}_broker", None)
    with pytest.raises(BrokerError, match=f"uv sync --extra {library}"):
        async with connected(f"{library}://127.0.0.1"):
            pass


@pytest.mark.asyncio
async def test_a_full_redis_gives_the_reason(redis_server: Any) -> None:
    await asyncio.to_thread(redis_server.start)
    await redis_server.configure("maxmemory", "4mb")
    async with connected(redis_server.url) as broker:
        jobs = [broker.submit(str(number), b"x" * 100_000) for number in range(100)]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    error = outcomes[-1]
    assert isinstance(error, BrokerError)
    assert "maxmemory" in str(error)


# When the server is not available, nats-py's `close` leaves a task running.
@pytest.mark.leaves_tasks
@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_a_server_that_is_unavailable_is_an_error_of_each_operation(
    server: Any,
) -> None:
    await asyncio.to_thread(server.start)
    async with connected(server.url) as broker:
        receipt = await broker.submit("id", b"a job")
        delivery = await take(broker)
        assert await broker.read_results() == []
        await asyncio.to_thread(server.kill)
        operations: list[Awaitable[object]] = [
            broker.prepare(),
            broker.submit("other", b"a job"),
            broker.read_results(),
            broker.status(receipt),
            broker.take(),
            broker.finish(delivery, broker.inbox, b"a result"),
            broker.keep_dead_letter(delivery, "a reason"),
        ]
        errors = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(error) for error in errors] == [BrokerUnavailableError] * len(
        operations
    )
    assert all(str(error) for error in errors)


# --- Recovery


class Flaky:
    """An operation that fails a number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    async def __call__(self, value: str) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise BrokerUnavailableError("connection refused")
        return value


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_operation_is_repeated_until_the_broker_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flaky = Flaky(failures=20)
    assert await Recovery(60).call(flaky, "x") == "x"
    assert flaky.calls == 21
    assert [record.message for record in caplog.records] == [
        "the broker is not available: connection refused",
        "the broker is available again",
    ]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_recovery_has_a_limit_and_gives_the_last_reason() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(BrokerUnavailableError) as caught:
        await Recovery(60).call(Flaky(failures=10**9), "x")
    message = "the broker has not been available for 60 s: connection refused"
    assert str(caught.value) == message
    assert loop.time() - started == pytest.approx(60, abs=1)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_outage_is_logged_once_for_all_operations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    recovery = Recovery(60)
    calls = [recovery.call(Flaky(failures=5), "x") for _ in range(10)]
    await asyncio.gather(*calls)
    assert len(caplog.records) == 2


@pytest.mark.asyncio
async def test_a_cancellation_that_a_library_swallows_is_raised_again() -> None:
    started = asyncio.Event()

    async def swallow() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    task = asyncio.create_task(Recovery(60).call(swallow))
    await started.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
