"""Databases: tables, types, positions, rejects, and loads that are killed."""

import asyncio
import enum
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from etl import load as load_module
from etl.app import main
from etl.load import Loader, connect
from etl.models import (
    IsoDate,
    IsoDateTime,
    StrictBool,
    StrictDecimal,
)
from etl.pipeline import Batch
from etl.sales import Sale

Capture = pytest.CaptureFixture[str]
Make = Callable[[str, str | bytes], str]
Load = Callable[..., Coroutine[Any, Any, int]]
Execute = Callable[..., Awaitable[list[tuple[object, ...]]]]

SOLD = [(n, f"TEA {n}", n * 10) for n in range(1, 8)]
QUERY = "SELECT id, item, cents FROM sales ORDER BY id"
CLEAR = ("DELETE FROM sales", "DELETE FROM rejects", "DELETE FROM cursors")


@pytest.fixture
def load(database_url: str, rejects: Path) -> Load:
    """The program with small batches, once on SQLite and once on PostgreSQL."""
    return partial(main, database_url=database_url, rejects=rejects, batch=3)


@pytest.fixture
def load_sqlite(sqlite_url: str, rejects: Path) -> Load:
    """The program with small batches, on SQLite."""
    return partial(main, database_url=sqlite_url, rejects=rejects, batch=3)


def rejected_lines(rejects: Path) -> list[int]:
    """Return the line numbers in the file for rejects."""
    return [json.loads(line)["line"] for line in rejects.read_text().splitlines()]


def is_device(path: str) -> bool:
    return Path(path).is_char_device()


# --- Tables and types


@pytest.mark.asyncio
async def test_a_second_load_updates_the_rows_that_have_changed(
    csv_file: str,
    make: Make,
    database_url: str,
    load: Load,
    rejects: Path,
    execute: Execute,
) -> None:
    assert await load(csv_file) == 0
    assert await execute(database_url, QUERY) == SOLD
    assert rejected_lines(rejects) == [4]
    make("sales.csv", "id,item,day,cents\n7,tea 7,2026-05-31,71\n8,milk,2026-05-31,5\n")
    assert await load(csv_file) == 0
    assert await execute(database_url, QUERY) == [
        *SOLD[:6],
        (7, "TEA 7", 71),
        (8, "MILK", 5),
    ]
    assert rejected_lines(rejects) == []


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Thing(BaseModel):
    """A row with values that must be converted for the driver."""

    details: dict[str, int]
    price: StrictDecimal
    colour: Colour
    at: IsoDateTime
    day: IsoDate
    is_new: StrictBool
    id: UUID


# The order of the columns differs from the order of the fields. One has no field.
THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("day", sa.Date),
    sa.Column("at", sa.DateTime),
    sa.Column("source", sa.Text, server_default="file"),
    sa.Column("colour", sa.Enum(Colour)),
    sa.Column("is_new", sa.Boolean),
    sa.Column("price", sa.Numeric(12, 2)),
    sa.Column("details", sa.JSON),
)


@pytest.mark.filterwarnings(
    "ignore:.*Decimal objects natively:sqlalchemy.exc.SAWarning"
)
@pytest.mark.asyncio
async def test_columns_of_any_type_and_order_are_written_by_name(
    database_url: str,
) -> None:
    values = {
        "id": UUID(int=1),
        "day": date(2026, 5, 31),
        "at": datetime(2026, 5, 31, 12),
        "colour": Colour.GREEN,
        "is_new": True,
        "price": Decimal("12.50"),
        "details": {"weight": 5},
    }
    async with connect(database_url) as connection:
        async with connection.begin():
            await connection.run_sync(THINGS.metadata.create_all)
        loader = Loader(connection, "source", Thing, THINGS, is_resumable=True)
        await loader.save(Batch(mark="1", rows=[Thing.model_validate(values)]))
        values["price"] = Decimal("0.99")
        await loader.save(Batch(mark="2", rows=[Thing.model_validate(values)]))
        row = (await connection.execute(sa.select(THINGS))).one()
        assert dict(row._mapping) == values | {"source": "file"}


@pytest.mark.asyncio
async def test_the_order_of_columns_in_the_table_does_not_matter(
    csv_file: str, load: Load, database_url: str, execute: Execute
) -> None:
    await execute(
        database_url,
        "CREATE TABLE sales (cents BIGINT, day DATE, item TEXT, id BIGINT PRIMARY KEY)",
    )
    assert await load(csv_file) == 0
    assert await execute(database_url, QUERY) == SOLD


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["id"], "the table things has no column item"),
        (["item", "day", "cents"], "the table things has no column id"),
        (["id", "item", "day", "cents"], "the table things needs a primary key"),
    ],
)
@pytest.mark.asyncio
async def test_a_table_that_does_not_fit_the_model_is_refused(
    sqlite_url: str, columns: list[str], message: str
) -> None:
    table = sa.Table("things", sa.MetaData(), *(sa.Column(name) for name in columns))
    async with connect(sqlite_url) as connection:
        with pytest.raises(ValueError, match=message):
            Loader(connection, "source", Sale, table, is_resumable=True)


@pytest.mark.asyncio
async def test_a_table_of_another_shape_is_explained_in_one_line(
    csv_file: str,
    load_sqlite: Load,
    sqlite_url: str,
    capsys: Capture,
    execute: Execute,
) -> None:
    await execute(sqlite_url, "CREATE TABLE sales (id INTEGER PRIMARY KEY)")
    assert await load_sqlite(csv_file) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{sqlite_url}: ")
    assert "no column named item" in line


# --- Database URLs


@pytest.mark.parametrize("form", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.asyncio
async def test_urls_that_providers_print_are_accepted(
    csv_file: str, load_sqlite: Load, postgres_url: str, execute: Execute, form: str
) -> None:
    url = sa.make_url(postgres_url).set(drivername=form)
    url = url.update_query_dict({"sslmode": "prefer", "connect_timeout": "30"})
    text = url.render_as_string(hide_password=False)
    assert await load_sqlite(csv_file, database_url=text) == 0
    assert await execute(postgres_url, QUERY) == SOLD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "/no/such/file.csv"}, "No such file"),
        ({"source": "/"}, "Is a directory"),
        ({"source": "sales\udcff.csv"}, "No such file"),
        ({"rejects": Path("/no/such/folder/rejects.ndjson")}, "No such file"),
    ],
)
@pytest.mark.asyncio
async def test_what_cannot_work_is_explained_in_one_line(
    csv_file: str,
    load_sqlite: Load,
    capsys: Capture,
    options: dict[str, str],
    message: str,
) -> None:
    assert await load_sqlite(**{"source": csv_file, **options}) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@host:port/sales", "port"),
        ("postgresql://me:secret@host/sales?nonsense=1", "nonsense"),
        ("sales.db", "not a database URL"),
        ("mysql://localhost/sales", "mysql"),
        ("sqlite:////no/such/sales.db", "cannot open the SQLite file"),
        ("postgresql://me:secret@/sales?host=/none", "No such file"),
        ("postgresql://me:secret@127.0.0.1:1/sales", "127.0.0.1"),
    ],
)
@pytest.mark.asyncio
async def test_a_database_that_cannot_be_opened_is_named_without_its_password(
    csv_file: str, load_sqlite: Load, capsys: Capture, url: str, message: str
) -> None:
    assert await load_sqlite(csv_file, database_url=url) == 1
    [line] = capsys.readouterr().err.splitlines()
    place, _, reason = line.partition(": ")
    assert place == url.replace("secret", "***")
    assert message in reason


# --- Several loads at once


@pytest.mark.asyncio
async def test_loads_that_create_the_same_database_at_once_all_succeed(
    make: Make, load: Load, database_url: str, execute: Execute, rejects: Path
) -> None:
    # They write to the same file for rejects, too.
    sources = [
        make(f"{n}.csv", f"id,item,day,cents\n{n},tea {n},2026-05-31,{n}0\n{n}\n")
        for n in range(1, 8)
    ]
    statuses = await asyncio.gather(*(load(source) for source in sources))
    assert statuses == [0] * 7
    assert await execute(database_url, QUERY) == SOLD
    assert rejected_lines(rejects) == [3] * 7
    assert [path.name for path in rejects.parent.glob("rejects*")] == [rejects.name]


@pytest.mark.asyncio
async def test_a_load_waits_for_another_program_that_writes(
    csv_file: str, load_sqlite: Load, sqlite_url: str, execute: Execute
) -> None:
    async with connect(sqlite_url) as connection:
        timeout = await connection.exec_driver_sql("PRAGMA busy_timeout")
        assert timeout.scalar() == load_module.DATABASE_TIMEOUT * 1000
        await connection.commit()
        # The default of sqlite3 is 5 seconds.
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        task = asyncio.create_task(load_sqlite(csv_file))
        await asyncio.sleep(0)
        await connection.rollback()
        assert await task == 0


# --- The rejects


@pytest.mark.asyncio
async def test_the_file_has_the_rejects_of_all_sources_once(
    csv_file: str,
    make: Make,
    load_sqlite: Load,
    rejects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = make("other.ndjson", "{}\n" * 3)
    another = make("another.ndjson", "{}\n")
    monkeypatch.chdir(Path(csv_file).parent)
    # The first and the last are the same.
    for source in ("sales.csv", other, another, csv_file):
        await load_sqlite(source)
    assert rejected_lines(rejects) == [1, 1, 2, 3, 4]


@pytest.mark.parametrize("which", ["source", "link", "database"])
@pytest.mark.asyncio
async def test_the_file_for_rejects_never_replaces_the_source_or_the_database(
    csv_file: str,
    load_sqlite: Load,
    sqlite_url: str,
    rejects: Path,
    capsys: Capture,
    execute: Execute,
    which: str,
) -> None:
    taken = Path(csv_file)
    if which == "database":
        taken = Path(sqlite_url.partition(":///")[2])
    given = taken
    if which == "link":
        given = rejects
        os.symlink(taken, rejects)
    assert await load_sqlite(csv_file, rejects=given) == 1
    assert (
        capsys.readouterr().err == f"{csv_file}: the rejects would overwrite {given}\n"
    )
    assert await load_sqlite(csv_file, rejects=rejects.with_name("others")) == 0
    assert await execute(sqlite_url, QUERY) == SOLD


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.asyncio
async def test_a_device_as_the_file_for_rejects_is_not_replaced(
    csv_file: str, load_sqlite: Load, rejects: Path, capsys: Capture
) -> None:
    assert await load_sqlite(csv_file, rejects=Path("/dev/full")) == 1
    assert capsys.readouterr().err.endswith("No space left on device\n")
    assert is_device("/dev/full")
    assert await load_sqlite(csv_file, rejects=Path(os.devnull)) == 0
    assert is_device(os.devnull)
    assert await load_sqlite(csv_file) == 0
    assert rejected_lines(rejects) == [4]


# --- Loads that are killed or cancelled


# Runs `main` many times, each time in a fork of this process. The first fork kills
# itself before its first statement or commit, the second before its second one, and so
# on. After each fork, the process prints the exit status and waits while the test looks
# at the database.
KILL = """
import asyncio, itertools, json, os, pathlib, signal, sys
import asyncpg, sqlalchemy
from etl import app, sales

app.MODEL = sales.Sale
app.TABLE = sales.SALES

def run_and_kill(moment, source, database_url, rejects):
    left = itertools.count(moment - 1, -1)
    def count_down(*_):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count_down)
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", count_down)
    sys.stdout = open(os.devnull, "w")
    options = {"rejects": pathlib.Path(rejects), "batch": 3}
    return asyncio.run(app.main(source, database_url=database_url, **options))

for moment in itertools.count(1):
    child = os.fork()
    if child == 0:
        os._exit(run_and_kill(moment, *sys.argv[1:]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_load_that_is_killed_at_any_moment_resumes_and_loses_nothing(
    csv_file: str,
    make: Make,
    database_url: str,
    load: Load,
    rejects: Path,
    execute: Execute,
) -> None:
    assert await load(make("empty.csv", "")) == 0  # creates the tables
    query = (
        "SELECT (SELECT count(*) FROM sales), (SELECT count(*) FROM rejects), max(line)"
        "FROM cursors"
    )
    # Numbers of sales, rejects and lines. They never become smaller.
    places: list[tuple[object, ...]] = [(0, 0, 0), (2, 1, 4), (5, 1, 7), (7, 1, 9)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILL, csv_file, database_url, str(rejects)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    moments = 0
    while True:
        moments += 1
        status = int(await process.stdout.readline())
        if status == 0:
            break
        assert status == -9
        [place] = await execute(database_url, query)
        assert place in places
        del places[: places.index(place)]
        process.stdin.write(b"\n")
    process.kill()
    await process.communicate()
    assert moments > 10
    assert await execute(database_url, QUERY) == SOLD
    assert rejected_lines(rejects) == [4]


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_load_that_is_cancelled_at_any_await_saves_whole_batches(
    csv_file: str,
    make: Make,
    load_sqlite: Load,
    sqlite_url: str,
    execute: Execute,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    assert await load_sqlite(make("empty.csv", "")) == 0  # creates the tables
    counts = "SELECT (SELECT count(*) FROM sales), (SELECT count(*) FROM rejects)"
    found = set()

    async def check() -> None:
        found.update(await execute(sqlite_url, counts))
        await execute(sqlite_url, *CLEAR)

    load = partial(load_sqlite, csv_file, batch=8)
    assert await cancel_everywhere(load, check) > 10
    assert found == {(0, 0), (7, 1)}


@pytest.mark.asyncio
async def test_a_load_resumes_with_the_page_after_the_rows_that_were_saved(
    api_url: str,
    pages: list[list[object]],
    database_url: str,
    load: Load,
    rejects: Path,
    execute: Execute,
) -> None:
    assert await load(api_url) == 0
    await execute(database_url, *CLEAR)
    place = (api_url, f"{api_url}?page=3", 6)
    other = ("another", f"{api_url}?page=2", 3)
    reject = (api_url, 2, '{"line": 2, "reason": "", "row": ""}')
    await execute(database_url, f"INSERT INTO cursors VALUES {other}, {place}")  # noqa: S608
    await execute(database_url, f"INSERT INTO rejects VALUES {reject}")  # noqa: S608
    pages[2].append("bad")
    assert await load(api_url) == 0
    assert await execute(database_url, QUERY) == SOLD[6:]
    assert rejected_lines(rejects) == [2, 8]
