"""Open a SQLite file or a PostgreSQL database with SQLAlchemy's asyncio engine."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .database_urls import parse_database_url
from .text import printable

Connection = TypeVar("Connection", bound=Any)

# Programs that start at the same moment would create the same tables. This lock of
# PostgreSQL lets one of them do it. The number is arbitrary.
SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(7284)"

# How long a cancelled task waits for a connection that is just being made, in seconds.
CANCELLATION_GRACE = 1.0


@asynccontextmanager
async def open_engine(
    database_url: str,
    *,
    pool_size: int = 5,
    timeout: float = 30.0,  # noqa: ASYNC109 - of each wait, not of this function
) -> AsyncIterator[AsyncEngine]:
    """Open a database, and close its connections at the end.

    Up to `pool_size` connections are open at the same time; to SQLite it is one.
    Waiting for a free connection, connecting, and waiting for the lock of a SQLite file
    may take up to `timeout` seconds each.

    Raises ValueError if the URL is not usable, and OSError if the SQLite file cannot be
    opened. A PostgreSQL server is contacted only when its first connection is used.
    """
    # In a thread, because the driver is imported and files are opened.
    engine = await asyncio.to_thread(create_engine, database_url, pool_size, timeout)
    try:
        yield engine
    finally:
        await engine.dispose()


def create_engine(database_url: str, pool_size: int, timeout: float) -> AsyncEngine:
    """Return an engine. It may be used in one event loop only."""
    if pool_size < 1:
        # For SQLAlchemy, 0 means no limit.
        raise ValueError(f"pool_size must be at least 1, not {pool_size}")
    url, connect_args = parse_database_url(database_url)
    connect_args = {"timeout": timeout} | connect_args
    if url.get_backend_name() == "sqlite":
        return create_sqlite_engine(url, connect_args, timeout)
    return create_postgresql_engine(url, connect_args, pool_size, timeout)


async def create_tables(engine: AsyncEngine, metadata: sa.MetaData) -> None:
    """Create the tables that do not exist yet. Several programs may do so at once."""
    async with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Takes the lock before it looks which tables exist, not after.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            await connection.exec_driver_sql(SCHEMA_LOCK)
        await connection.run_sync(metadata.create_all)


# --- SQLite


def create_sqlite_engine(
    url: sa.URL, connect_args: dict[str, object], timeout: float
) -> AsyncEngine:
    """Return an engine for a SQLite file. Creates the file if it does not exist."""
    engine = create_async_engine(
        url,
        connect_args={"async_creator_fn": connect_sqlite, **connect_args},
        # SQLite has one writer at a time. Tasks that queue for a single connection are
        # faster than connections that compete for the lock, and each gets its turn.
        pool_size=1,
        max_overflow=0,
        pool_timeout=timeout,
    )
    # If aiosqlite cannot open the file, its thread may outlive the event loop.
    [file], options = engine.dialect.create_connect_args(url)
    try:
        sqlite3.connect(file, uri=options.get("uri", False)).close()
    except sqlite3.Error as error:
        path = printable(url.database)
        raise OSError(f"cannot open the SQLite file {path}: {error}") from error
    sa.event.listen(engine.sync_engine, "invalidate", roll_back)
    return engine


async def connect_sqlite(*args: Any, **kwargs: Any) -> aiosqlite.Connection:
    """Connect as aiosqlite does, and apply the settings that a connection needs."""
    return await finish_when_cancelled(open_sqlite(*args, **kwargs))


async def open_sqlite(
    *args: Any,
    timeout: float,  # noqa: ASYNC109 - of each wait for a lock
    **kwargs: Any,
) -> aiosqlite.Connection:
    """Open a SQLite file. `timeout` limits each wait for a lock, in seconds."""
    connection = await aiosqlite.connect(*args, timeout=0, **kwargs)
    try:
        await apply_settings(connection, timeout)
    except BaseException:
        # Its thread would keep the program from ending.
        await connection.close()
        raise
    return connection


async def apply_settings(
    connection: aiosqlite.Connection,
    timeout: float,  # noqa: ASYNC109 - of each wait for a lock
) -> None:
    """Apply the settings that a SQLite connection needs."""
    try:
        # With a write-ahead log, readers and a writer do not wait for each other, and a
        # commit writes once instead of twice. The setting stays in the file. It cannot
        # be changed while the file is in use: then a later connection does it.
        await connection.executescript("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:
        pass
    await connection.executescript(
        # Other programs may use the file. Their locks are waited for.
        f"PRAGMA busy_timeout = {round(timeout * 1000)};"
        # A commit does not wait for the disk. A power failure may undo the last
        # commits, but never a part of one. A crash of the program undoes nothing.
        "PRAGMA synchronous = NORMAL;"
        # Without this, SQLite does not check foreign keys.
        "PRAGMA foreign_keys = ON;"
    )


def roll_back(connection: Any, *_: object) -> None:
    """End the transaction of a connection that SQLAlchemy is about to close.

    It closes the connection of a task that was cancelled during a statement. SQLite
    would keep the locks of the transaction as long as that statement exists.
    """
    connection.rollback()


# --- PostgreSQL


def create_postgresql_engine(
    url: sa.URL, connect_args: dict[str, object], pool_size: int, timeout: float
) -> AsyncEngine:
    """Return an engine for a PostgreSQL database. Does not connect yet."""
    try:
        return create_async_engine(
            url,
            connect_args={"async_creator_fn": connect_postgresql, **connect_args},
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout,
            # Before a connection is used again, make sure that it still works. The
            # server or a firewall may have closed it in the meantime.
            pool_pre_ping=True,
        )
    except ImportError:
        raise ValueError(
            "PostgreSQL needs the driver asyncpg: install the extra `postgres`"
        ) from None


async def connect_postgresql(*args: Any, **kwargs: Any) -> Any:
    """Connect as asyncpg does."""
    import asyncpg  # type: ignore[import-untyped]

    return await finish_when_cancelled(asyncpg.connect(*args, **kwargs))


# --- Both


async def finish_when_cancelled(connect: Coroutine[Any, Any, Connection]) -> Connection:
    """Return a new connection. When cancelled, let it connect, and then close it.

    Both drivers lose something if they are cancelled while they connect. aiosqlite
    leaves the file open. asyncpg, if it has just reached the server, gets an error that
    no code awaits, and Python logs "Future exception was never retrieved".
    """
    connecting = asyncio.create_task(connect)
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        # Usually it takes some milliseconds. An unreachable host is not waited for.
        try:
            await asyncio.wait({connecting}, timeout=CANCELLATION_GRACE)
        finally:
            if not connecting.cancel():
                await close_result(connecting)
        raise


async def close_result(connecting: asyncio.Task[Connection]) -> None:
    """Close the connection that was made, if it was."""
    if connecting.exception() is None:
        await connecting.result().close()
