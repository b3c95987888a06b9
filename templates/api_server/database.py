"""The database: its connections, its transactions, and what happens when it fails."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from starlette.types import ASGIApp, Receive, Scope, Send

from .engine import create_tables, open_engine
from .limits import Limits, replay
from .models import Base
from .problems import Problem
from .text import printable

log = logging.getLogger(__name__)

ATTEMPTS = 5
MAX_PAUSE = 0.5  # seconds between two attempts
SQLITE_BUSY = 5
# PostgreSQL's serialization_failure and deadlock_detected.
CONFLICTS = {"40001", "40P01"}


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
    """Return the database's message, in one line and without the statement."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    text = str(error) or type(error).__name__
    return printable(text.splitlines()[0])


@asynccontextmanager
async def open_database(url: str, limits: Limits) -> AsyncIterator[Database]:
    """Connect to the database, and create its tables if they are missing.

    Raises ValueError if the URL is not usable, UnavailableError if the database is not.
    """
    opening = open_engine(
        url, pool_size=limits.pool_size, timeout=limits.request_timeout
    )
    async with AsyncExitStack() as stack:
        try:
            engine = await stack.enter_async_context(opening)
            await create_tables(engine, Base.metadata)
        except (OSError, SQLAlchemyError) as error:
            raise UnavailableError(reason(error)) from error
        yield Database(engine)


# --- Repeating


class RetryMiddleware:
    """Repeats a request whose transaction the database aborted because of a conflict.

    That is safe: the answer is sent only after the commit, and an aborted transaction
    has changed nothing.
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
        # The lower byte is the error, the higher ones are details.
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) in CONFLICTS


def pause_after(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt: longer each time, at random.

    Without the randomness, requests that collided would collide again.
    """
    longest = min(MAX_PAUSE, 0.02 * 2**attempt)
    return random.uniform(0, longest)  # noqa: S311
