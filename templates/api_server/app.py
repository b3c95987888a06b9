"""A booking service with a JSON API. It never sells a seat twice.

routes.py has the API, store.py the bookings, database.py the transactions,
idempotency.py the requests that may be repeated, limits.py and problems.py what happens
to requests that are too many, too large, too slow or wrong.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import uvicorn
from cyclopts import Parameter, types
from fastapi import FastAPI
from starlette.types import ASGIApp

from .database import RetryMiddleware, UnavailableError, open_database
from .idempotency import purge_expired_keys
from .limits import LIMIT, Limits, LimitsMiddleware
from .problems import ProblemMiddleware, add_handlers
from .routes import router
from .text import mask_credentials, printable

DEFAULT_URL = "sqlite:///bookings.db"
URL_VARIABLE = f"{(__package__ or '').upper()}_DATABASE_URL"


# --- The application


def create_app(
    database_url: str | None = None, limits: Limits | None = None
) -> FastAPI:
    """Return the application, for any ASGI server.

    Without arguments, as `uvicorn --factory` calls it, it takes the database URL from
    the same environment variable as the program.
    """
    app = FastAPI(title="Bookings", lifespan=lifespan)
    app.state.database_url = database_url or os.environ.get(URL_VARIABLE, DEFAULT_URL)
    app.state.limits = limits or Limits()
    app.include_router(router)
    add_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(RetryMiddleware)
    app.add_middleware(LimitsMiddleware, limits=app.state.limits)
    app.add_middleware(ProblemMiddleware)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the database open while the application serves."""
    limits: Limits = app.state.limits
    async with open_database(app.state.database_url, limits) as database:
        app.state.database = database
        async with asyncio.TaskGroup() as tasks:
            purge = tasks.create_task(purge_expired_keys(database, limits.key_lifetime))
            try:
                yield
            finally:
                purge.cancel()


# --- The server


class Server(uvicorn.Server):
    """uvicorn's server, without its signal handlers.

    The signals belong to __main__.py, which cancels `main`.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signal. uvicorn enters this context while it serves."""
        yield


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    grace: int = 10,
    lifetime: float | None = None,
) -> None:
    """Serve until this is cancelled, or for `lifetime` seconds. Then drain, and return.

    Draining is: close the listener, answer the requests in flight, and after `grace`
    seconds cancel those that are left.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
    )
    server = Server(config)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]))
        try:
            await asyncio.wait([serving], timeout=lifetime)
        except asyncio.CancelledError:
            # For a server that is success: the caller returns 0.
            pass
        server.should_exit = True
    for connection in list(server.server_state.connections):
        connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Port 0 is any free port. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def url_of(listener: socket.socket) -> str:
    """Return the URL at which a socket listens."""
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"


async def main(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        types.Port, Parameter(help="Port to listen on; 0 picks a free one.")
    ] = 8000,
    database_url: Annotated[
        str, Parameter(help="SQLAlchemy URL of the database.")
    ] = DEFAULT_URL,
    grace: Annotated[
        int, LIMIT, Parameter(help="Time limit for the shutdown, in seconds.")
    ] = 15,
    lifetime: Annotated[
        float | None, LIMIT, Parameter(help="Stop after this many seconds.")
    ] = None,
    limits: Limits | None = None,
) -> int:
    """Serve a booking API. Its documentation is at /docs of the printed address."""
    app = create_app(database_url, limits)
    try:
        listener = await asyncio.to_thread(listen, host or "127.0.0.1", port)
    except OSError as error:
        print(f"cannot listen on {host}:{port}: {error}", file=sys.stderr)
        return 1
    with listener:
        try:
            async with lifespan(app):
                print(f"listening on {url_of(listener)}")
                await serve(app, listener, grace=grace, lifetime=lifetime)
        except (ValueError, UnavailableError) as error:
            url = printable(mask_credentials(database_url))
            print(f"cannot use {url}: {error}", file=sys.stderr)
            return 1
    return 0
