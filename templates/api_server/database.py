"""The database: its connections, its transactions, and what happens when it fails."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from .database_urls import parse_database_url
from .limits import Limits, replay
from .models import Base
from .problems import Problem

log = logging.getLogger(__name__)

ATTEMPTS = 5
MAX_PAUSE = 0.5  # seconds between two attempts
BUSY_TIMEOUT = 2.0  # seconds that SQLite waits for the lock of another process
CONNECT_TIMEOUT = 5.0  # seconds
SQLITE_BUSY = 5
# PostgreSQL's serialization_failure and deadlock_detected.
CONFLICTS = {"40001", "40P01"}
# An arbitrary number. Programs that start at the same time create the tables in turn.
TABLES_LOCK = "SELECT pg_advisory_xact_lock(4711)"


class UnavailableError(Problem):
    """The database cannot be used at the moment."""

    status = 503
    retry_after = 1


class Database:
    """The database behind an engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Begin a transaction, commit it at the end, or roll it back after an error.

        Raises UnavailableError if there is no connection, or if it is lost.
        """
        async with self._sessions() as session:
            try:
                # Connect now: the first statement would do it later, and its errors
                # would mix with those of the program.
                _connection = await session.connection()
            except (OSError, SQLAlchemyError) as error:
                raise unavailable(error) from error
            try:
                yield session
                await session.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise unavailable(error) from error
                raise

    async def ping(self) -> None:
        """Return if the database answers. Raises UnavailableError if it does not."""
        async with self.transaction() as session:
            await session.execute(sa.select(1))


def unavailable(error: Exception) -> UnavailableError:
    """Log why the database cannot be used. The client gets no details."""
    log.warning("the database is not available: %s", reason(error))
    return UnavailableError("The database is not available.")


def reason(error: Exception) -> str:
    """Return what the database said, in one line and without the statement."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    text = str(error) or type(error).__name__
    return text.splitlines()[0]


# --- Opening


@asynccontextmanager
async def open_database(url: str, limits: Limits) -> AsyncIterator[Database]:
    """Connect to the database, and create its tables if they are missing.

    Raises ValueError if the URL is not valid, UnavailableError if the database cannot
    be used.
    """
    # In a thread, because it looks at files: the driver's module and the database.
    engine = await asyncio.to_thread(create_engine, url, limits)
    try:
        if engine.dialect.name == "sqlite":
            await asyncio.to_thread(try_file, engine.url)
        async with engine.begin() as connection:
            await create_tables(connection)
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        await engine.dispose()
        raise UnavailableError(reason(error)) from error
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


def create_engine(url: str, limits: Limits) -> AsyncEngine:
    """Return an engine with the settings that each database needs."""
    address, connect_args = parse_database_url(url)
    if address.get_backend_name() == "sqlite":
        # IMMEDIATE takes the lock for writing at the beginning of a transaction. Later
        # in the transaction, SQLite would not wait for it, but fail.
        defaults: dict[str, object] = {
            "timeout": BUSY_TIMEOUT,
            "isolation_level": "IMMEDIATE",
        }
        # SQLite has one writer at a time. A queue for one connection is fair, and
        # faster than many connections that compete for the lock.
        pool_size = 1
    else:
        defaults = {"timeout": CONNECT_TIMEOUT}
        pool_size = limits.pool_size
    engine = create_async_engine(
        address,
        connect_args=defaults | connect_args,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=limits.request_timeout,
        # Connections that a restart of the server has broken are replaced.
        pool_pre_ping=address.get_backend_name() != "sqlite",
    )
    if address.get_backend_name() == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", set_pragmas)
        sa.event.listen(engine.sync_engine, "invalidate", roll_back)
    return engine


def set_pragmas(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    """Make a new connection to SQLite fast and strict."""
    cursor = connection.cursor()
    # With WAL, NORMAL is safe when the program is killed. A power failure may undo the
    # last transactions, but does not damage the file.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def roll_back(connection: sa.engine.interfaces.DBAPIConnection, *_: object) -> None:
    """Give up the lock on the file before a connection is thrown away.

    SQLAlchemy throws a connection away if a request is cancelled while it waits for the
    database. To close it is not enough, as long as a statement is not finished.
    """
    connection.rollback()


def try_file(url: sa.URL) -> None:
    """Open the file of a SQLite database once. Raises sqlite3.Error.

    aiosqlite starts a thread for each connection, which would outlive a failure.
    """
    is_uri = url.query.get("uri") is not None
    file = url.database or ""
    connection = sqlite3.connect(file, uri=is_uri, timeout=BUSY_TIMEOUT)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


async def create_tables(connection: AsyncConnection) -> None:
    """Create the tables that are missing."""
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        await connection.exec_driver_sql(TABLES_LOCK)
    await connection.run_sync(Base.metadata.create_all)


# --- Repeating


class RetryMiddleware:
    """Repeats a request whose transaction the database gave up.

    That is safe: the answer is sent only after the commit, and a transaction that was
    given up has changed nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # LimitsMiddleware has collected the whole body in one message.
        message = await receive()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # The application adds items to the scope, so each attempt has a copy.
                await self.app(dict(scope), replay(message, receive), send)
                return
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
                log.info("attempt %d: %s", attempt, reason(error))
            await asyncio.sleep(pause_after(attempt))
        raise UnavailableError("The database is busy.")


def is_conflict(error: DBAPIError) -> bool:
    """Return whether the transaction failed only because of other transactions."""
    if isinstance(error.orig, sqlite3.Error):
        # The lower byte is the error, the others say more about it.
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) in CONFLICTS


def pause_after(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt: longer each time, at random.

    Without the randomness, requests that collided would collide again.
    """
    longest = min(MAX_PAUSE, 0.02 * 2**attempt)
    return random.uniform(0, longest)  # noqa: S311
