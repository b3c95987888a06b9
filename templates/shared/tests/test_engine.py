"""Engines: settings of SQLite and PostgreSQL, errors, and cancellation."""

import asyncio
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from shared.engine import (
    create_tables,
    finish_when_cancelled,
    open_engine,
)

METADATA = sa.MetaData()
PLACES = sa.Table("places", METADATA, sa.Column("name", sa.String, primary_key=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file.as_posix()}"


async def setting(engine: AsyncEngine, name: str) -> object:
    """Return the value of a setting of SQLite."""
    async with engine.connect() as connection:
        return await connection.scalar(sa.text(f"PRAGMA {name}"))


def sqlite_threads() -> list[threading.Thread]:
    """Return the threads of SQLite connections: each has one."""
    return [thread for thread in threading.enumerate() if "connection" in thread.name]


async def wait_for_threads() -> None:
    """Wait until all SQLite connections are closed."""
    for thread in sqlite_threads():
        await asyncio.to_thread(thread.join, 5)
    assert sqlite_threads() == []


# --- SQLite


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 1),  # NORMAL
        ("foreign_keys", 1),
        ("busy_timeout", 7000),
    ],
)
@pytest.mark.asyncio
async def test_every_sqlite_connection_has_the_settings(
    url: str, name: str, value: object
) -> None:
    async with open_engine(url, timeout=7) as engine:
        assert await setting(engine, name) == value
        # The next connection is a new one.
        await engine.dispose()
        assert await setting(engine, name) == value


@pytest.mark.asyncio
async def test_a_time_limit_in_the_url_is_preferred(url: str) -> None:
    async with open_engine(f"{url}?timeout=2", timeout=7) as engine:
        assert await setting(engine, "busy_timeout") == 2000


@pytest.mark.asyncio
async def test_sqlite_has_one_connection(url: str) -> None:
    async with open_engine(url, pool_size=3, timeout=0.01) as engine:
        async with engine.connect():
            with pytest.raises(sa.exc.TimeoutError):
                await setting(engine, "synchronous")


@pytest.mark.asyncio
async def test_a_locked_file_is_opened_without_the_write_ahead_log(
    file: Path, url: str
) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with open_engine(url) as engine:
            assert await setting(engine, "synchronous") == 1
            other.rollback()
            await engine.dispose()
            assert await setting(engine, "journal_mode") == "wal"


@pytest.mark.asyncio
async def test_a_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "data.db"
    with pytest.raises(OSError, match=r"cannot open the SQLite file .*data\.db: un"):
        async with open_engine(f"sqlite:///{missing.as_posix()}"):
            pass
    assert sqlite_threads() == []


@pytest.mark.asyncio
async def test_a_lock_is_waited_for_until_the_time_limit(file: Path, url: str) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with open_engine(url, timeout=0.05) as engine:
            with pytest.raises(sa.exc.OperationalError, match="database is locked"):
                await setting(engine, "synchronous")
    await wait_for_threads()


@pytest.mark.asyncio
async def test_connections_are_closed_after_an_error(url: str) -> None:
    async def fail() -> None:
        async with open_engine(url) as engine:
            await setting(engine, "synchronous")
            assert len(sqlite_threads()) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await wait_for_threads()


@pytest.mark.asyncio
async def test_programs_that_start_together_create_the_tables_once(url: str) -> None:
    async def start() -> None:
        async with open_engine(url) as engine:
            await create_tables(engine, METADATA)

    async with asyncio.TaskGroup() as programs:
        for _ in range(5):
            programs.create_task(start())
    async with open_engine(url) as engine, engine.connect() as connection:
        assert (await connection.execute(sa.select(PLACES))).all() == []


# --- PostgreSQL


@pytest.mark.asyncio
async def test_a_postgresql_engine_has_the_settings() -> None:
    async with open_engine("postgres://db/x", pool_size=3, timeout=7) as engine:
        pool = engine.sync_engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.size() == 3
        assert pool.timeout() == 7
        assert engine.url.drivername == "postgresql+asyncpg"


@pytest.mark.asyncio
async def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ValueError, match=r"needs the driver asyncpg"):
        async with open_engine("postgresql://db/x"):
            pass


@pytest.mark.asyncio
async def test_a_url_that_is_not_usable_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not a database URL"):
        async with open_engine("nonsense"):
            pass


@pytest.mark.asyncio
async def test_the_number_of_connections_must_have_a_limit(url: str) -> None:
    with pytest.raises(ValueError, match="pool_size must be at least 1, not 0"):
        async with open_engine(url, pool_size=0):
            pass


# --- Cancellation while a connection is made


class Connection:
    """A connection that takes its time."""

    def __init__(self, *, fails: bool = False) -> None:
        self.started = asyncio.Event()
        self.ready = asyncio.Event()
        self.fails = fails
        self.closed = False

    async def connect(self) -> "Connection":
        self.started.set()
        await self.ready.wait()
        if self.fails:
            raise OSError("refused")
        return self

    async def close(self) -> None:
        self.closed = True


async def cancel_while_connecting(connection: Connection) -> None:
    task = asyncio.create_task(finish_when_cancelled(connection.connect()))
    await connection.started.wait()
    asyncio.get_running_loop().call_later(0.5, connection.ready.set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_connection_that_was_being_made_is_closed_when_cancelled() -> None:
    connection = Connection()
    await cancel_while_connecting(connection)
    assert connection.closed


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_error_while_connecting_is_not_lost_when_cancelled() -> None:
    connection = Connection(fails=True)
    await cancel_while_connecting(connection)
    assert not connection.closed


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_delays_a_cancellation_by_a_second() -> (
    None
):
    connection = Connection()
    task = asyncio.create_task(finish_when_cancelled(connection.connect()))
    await connection.started.wait()
    began = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - began == pytest.approx(1)
    assert not connection.closed
