"""A fleet: workers that are processes, and brokers that restart and lose data.

This file is a program too: a worker with the tasks of these tests, for the URL on its
command line.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import jobs.submitter as submitter_module
from jobs.brokers import Recovery, connected
from jobs.messages import Job, Result
from jobs.submitter import Submitter
from jobs.tasks import Task
from jobs.worker import Worker

REDELIVER = 1.0  # seconds

pytestmark = [
    pytest.mark.deadline(60),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

Process = asyncio.subprocess.Process
StartProcess = Callable[[str], Awaitable[Process]]


# --- Tasks of the workers


async def die(_argument: None) -> None:
    os._exit(3)


async def read_pipe(path: str) -> str:
    """Return four characters from a named pipe. Opening it waits for a writer."""
    return await asyncio.to_thread(read_four, path)


def read_four(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read(4).decode()


async def give(size: int) -> str:
    return "x" * size


async def double(text: str) -> str:
    return text * 2


TEST_TASKS: dict[str, Task] = {
    "die": die,
    "read_pipe": read_pipe,
    "give": give,
    "double": double,
}


async def serve(url: str) -> None:
    """Work for the broker at `url`, until SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with connected(url, REDELIVER) as broker:
        worker = Worker(broker, TEST_TASKS, concurrency=1, recovery=Recovery(20))
        print("ready", flush=True)
        await worker.serve()


# --- Fixtures


@pytest_asyncio.fixture
async def start_process() -> AsyncIterator[StartProcess]:
    """Starts a worker process; returns when it is connected."""
    processes: list[Process] = []

    async def start_process(url: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, url),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    yield start_process
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Reports:
    """What has been reported, and an event for each report."""

    def __init__(self) -> None:
        self.results: list[tuple[Any, Result]] = []
        self.arrived = asyncio.Event()

    def add(self, argument: Any, result: Result) -> None:
        self.results.append((argument, result))
        self.arrived.set()

    @property
    def values(self) -> dict[Any, Any]:
        assert len({argument for argument, _ in self.results}) == len(self.results)
        return {argument: result.value for argument, result in self.results}


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe."""
    if sys.platform == "win32":
        pytest.skip("Windows has no named pipes in folders")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


async def submit(
    url: str, task: str, arguments: list[Any], reports: Reports, **options: Any
) -> None:
    """Submit jobs and wait for their results."""
    async with connected(url) as broker:
        await Submitter(broker, Recovery(30), **options).run(
            task, arguments, reports.add
        )


# --- Large results


@pytest.mark.asyncio
async def test_a_large_result_is_an_error_and_the_fleet_continues(
    url: str, start_process: StartProcess, reports: Reports
) -> None:
    worker = await start_process(url)
    await submit(url, "give", [1_048_576, 3], reports)
    by_argument = dict(reports.results)
    error = by_argument[1_048_576].error
    assert error is not None
    assert "1,048," in error
    assert "the limit is 1,000,000" in error
    assert by_argument[3].value == "xxx"
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0


@pytest.mark.asyncio
async def test_a_nats_server_with_a_small_limit_is_obeyed(
    nats_server: Any, start_process: StartProcess, reports: Reports, tmp_path: Path
) -> None:
    config = tmp_path / "nats.conf"
    await asyncio.to_thread(config.write_text, "max_payload: 10000\n")
    options = ("-js", "-sd", str(nats_server.folder), "-c", str(config))
    await asyncio.to_thread(nats_server.start, *options)
    await start_process(nats_server.url)
    await submit(nats_server.url, "give", [9_990, 8_000], reports)
    by_argument = dict(reports.results)
    assert "the limit is 9,000" in str(by_argument[9_990].error)
    assert by_argument[8_000].value == "x" * 8_000


# --- Workers that die


@pytest.mark.asyncio
async def test_the_job_of_a_killed_worker_is_done_by_another_one(
    url: str, start_process: StartProcess, reports: Reports, pipe: Path
) -> None:
    killed = await start_process(url)
    async with asyncio.TaskGroup() as group:
        group.create_task(submit(url, "read_pipe", [str(pipe)], reports))
        # Returns when the worker reads.
        first = await asyncio.to_thread(pipe.open, "wb", 0)
        killed.kill()
        await killed.wait()
        other = await start_process(url)
        first.close()
        second = await asyncio.to_thread(pipe.open, "wb", 0)
        await asyncio.to_thread(second.write, b"text")
        # In the middle of the job.
        other.send_signal(signal.SIGTERM)
        second.close()
    assert reports.values == {str(pipe): "text"}
    assert await other.wait() == 0


@pytest.mark.asyncio
async def test_a_task_that_kills_its_workers_is_set_aside(
    url: str,
    start_process: StartProcess,
    reports: Reports,
    dead_letters: Callable[[], Awaitable[list[tuple[bytes, str]]]],
) -> None:
    deaths = 0
    submitting = asyncio.create_task(submit(url, "die", [None], reports, attempts=2))
    while not reports.results:
        worker = await start_process(url)
        death = asyncio.create_task(worker.wait())
        report = asyncio.create_task(reports.arrived.wait())
        await asyncio.wait([death, report], return_when=asyncio.FIRST_COMPLETED)
        report.cancel()
        if death.done():
            assert death.result() == 3
            deaths += 1
        else:
            death.cancel()
    await submitting
    ((_, result),) = reports.results
    assert result.error == "2 workers took it and died or lost it"
    assert deaths == 2
    ((message, reason),) = await dead_letters()
    assert Job.decode(message).task == "die"
    assert reason == "die(None): 2 workers took it and died or lost it"


# --- Brokers that fail


@pytest.mark.asyncio
async def test_a_server_that_loses_its_data_during_a_run_loses_no_result(
    url: str,
    start_process: StartProcess,
    reports: Reports,
    lose_data: Callable[[], Awaitable[None]],
    wait_for_jobs: Callable[[int], Awaitable[None]],
    pipe: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One job is in work, and the others are in the queue."""
    monkeypatch.setattr(submitter_module, "WATCH_INTERVAL", 0.5)
    await start_process(url)
    texts = [str(number) for number in range(20)]
    async with asyncio.TaskGroup() as group:
        group.create_task(submit(url, "read_pipe", [str(pipe)], reports))
        writer = await asyncio.to_thread(pipe.open, "wb", 0)
        group.create_task(submit(url, "double", texts, reports))
        await wait_for_jobs(21)
        await lose_data()
        # The job may be done twice, and then the pipe is read twice.
        await asyncio.to_thread(writer.write, b"text" * 4)
    writer.close()
    expected = {text: text * 2 for text in texts}
    assert reports.values == {**expected, str(pipe): "text"}


@pytest.mark.asyncio
async def test_a_nats_server_that_is_killed_and_restarted_loses_no_job(
    nats_server: Any, start_process: StartProcess, reports: Reports, pipe: Path
) -> None:
    await asyncio.to_thread(nats_server.start)
    url = nats_server.url
    worker = await start_process(url)
    async with asyncio.TaskGroup() as group:
        group.create_task(submit(url, "read_pipe", [str(pipe)], reports))
        writer = await asyncio.to_thread(pipe.open, "wb", 0)
        texts = [str(number) for number in range(20)]
        group.create_task(submit(url, "double", texts, reports))
        await nats_server.wait_for_jobs(21)
        await asyncio.to_thread(nats_server.kill)
        # The job may be done twice, and then the pipe is read twice.
        await asyncio.to_thread(writer.write, b"text" * 4)
        await asyncio.to_thread(nats_server.start)
    writer.close()
    expected = {text: text * 2 for text in texts}
    assert reports.values == {**expected, str(pipe): "text"}
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0


@pytest.mark.asyncio
async def test_a_server_that_comes_back_empty_is_used_again(
    server: Any, start_process: StartProcess, reports: Reports
) -> None:
    await asyncio.to_thread(server.start)
    worker = await start_process(server.url)
    submitting = asyncio.create_task(submit(server.url, "give", [3], reports))
    await reports.arrived.wait()
    await submitting
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.lose_data)
    await asyncio.to_thread(server.start)
    await submit(server.url, "double", ["a"], reports)
    assert reports.values == {3: "xxx", "a": "aa"}
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0


@pytest.mark.asyncio
async def test_a_worker_can_be_stopped_while_the_broker_is_unavailable(
    server: Any, start_process: StartProcess
) -> None:
    await asyncio.to_thread(server.start)
    worker = await start_process(server.url)
    await asyncio.to_thread(server.kill)
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="worker: %(message)s")
    asyncio.run(serve(sys.argv[1]))
