"""What the program promises, on real files, a real HTTP server, SQLite and
PostgreSQL.
"""

import asyncio
import io
import json
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from aiohttp import ClientError, ClientSession, web

from etl.app import (
    Batch,
    main,
    pipeline,
    read_page,
)

Capture = pytest.CaptureFixture[str]
Script = deque[web.Response | str]
Make = Callable[[str, str | bytes], str]
Load = Callable[..., Awaitable[int]]
SOLD = [(n, f"TEA {n}", n * 10) for n in range(1, 8)]


async def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Execute statements on a connection of their own; return the rows of the last
    one.
    """
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.partition(":///")[2])) as lite, lite:
            return [lite.execute(statement).fetchall() for statement in statements][-1]
    postgres = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        rows = [await postgres.fetch(statement) for statement in statements]
        return [tuple(row) for row in rows[-1]]
    finally:
        await postgres.close()


async def sold(url: str) -> list[tuple[object, ...]]:
    """Return the table of sales."""
    return await execute(url, "SELECT id, item, cents FROM sales ORDER BY id")


async def clear(url: str) -> None:
    """Empty the tables."""
    await execute(
        url, "DELETE FROM sales", "DELETE FROM rejects", "DELETE FROM cursors"
    )


def refused(rejects: Path) -> list[tuple[int, str, object]]:
    """Return the line, reason and row of each reject."""
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    return [(line["line"], line["reason"], line["row"]) for line in lines]


def now() -> float:
    """The loop's time: a virtual clock starts at 0, and only waiting moves it."""
    return asyncio.get_running_loop().time()


@pytest.fixture
def load(database_url: str, rejects: Path) -> Load:
    """The program with small batches, once on SQLite and once on PostgreSQL."""
    return partial(main, database_url=database_url, rejects=rejects, batch=3)


@pytest.fixture
def load_sqlite(sqlite_url: str, rejects: Path) -> Load:
    """The program with small batches, on SQLite."""
    return partial(main, database_url=sqlite_url, rejects=rejects, batch=3)


# --- From every source to every database


@pytest.mark.asyncio
async def test_a_file_is_loaded_into_any_database(
    csv_file: str, database_url: str, load: Load, capsys: Capture
) -> None:
    assert await load(csv_file) == 0
    assert await sold(database_url) == SOLD
    assert capsys.readouterr().out.startswith("rows: 8 read, 7 loaded, 1 rejected; ")


@pytest.mark.asyncio
async def test_loads_that_make_one_new_database_at_the_same_moment_all_succeed(
    make: Make, database_url: str, tmp_path: Path
) -> None:
    async def load(n: int) -> int:
        source = make(f"{n}.csv", f"id,item,day,cents\n{n},tea {n},2026-05-31,{n}0\n")
        return await main(
            source, database_url=database_url, rejects=tmp_path / f"{n}.ndjson"
        )

    assert await asyncio.gather(*(load(n) for n in range(1, 8))) == [0] * 7
    assert await sold(database_url) == SOLD


@pytest.mark.parametrize("name", ["sales.csv", "SALES.CSV", "sales.ndjson", "sales"])
@pytest.mark.asyncio
async def test_csv_and_ndjson_give_the_same_table(
    make: Make,
    pages: list[list[dict[str, object]]],
    load_sqlite: Load,
    sqlite_url: str,
    name: str,
) -> None:
    items = [item for page in pages for item in page]
    lines = [json.dumps(item) for item in items]
    if name.lower().endswith(".csv"):
        lines = [
            ",".join(map(str, row)) for row in [items[0], *(i.values() for i in items)]
        ]
    assert (
        await load_sqlite(make(name, "\n".join(lines))) == 0
    )  # no line break at the end
    assert await sold(sqlite_url) == SOLD


@pytest.mark.asyncio
async def test_an_api_gives_the_same_table(
    api_url: str, seen: list[tuple[str, float]], load_sqlite: Load, sqlite_url: str
) -> None:
    assert await load_sqlite(api_url) == 0
    assert await sold(sqlite_url) == SOLD
    assert [page for page, _ in seen] == ["1", "2", "3"]


@pytest.mark.asyncio
async def test_a_second_load_brings_what_has_changed(
    csv_file: str, make: Make, database_url: str, load: Load, rejects: Path
) -> None:
    assert await load(csv_file) == 0
    make("sales.csv", "id,item,day,cents\n7,tea 7,2026-05-31,71\n8,milk,2026-05-31,5\n")
    assert await load(csv_file) == 0
    assert await sold(database_url) == [*SOLD[:6], (7, "TEA 7", 71), (8, "MILK", 5)]
    assert refused(rejects) == []


@pytest.mark.asyncio
async def test_quotes_empty_lines_and_line_ends_of_any_system_are_read(
    make: Make, load_sqlite: Load, sqlite_url: str, rejects: Path
) -> None:
    lines = [
        b'\xef\xbb\xbfday,cents,"id",item,note',
        b"",
        b'2026-05-31,1,1,"tea, ""green""",',
        b"2026-05-31,2,2,caf\xc3\xa9,new",
        b"",
    ]
    assert await load_sqlite(make("sales.csv", b"\r\n".join(lines))) == 0
    assert await sold(sqlite_url) == [(1, 'TEA, "GREEN"', 1), (2, "CAFÉ", 2)]
    assert refused(rejects) == []


# --- Bad rows

BAD_LINES = {
    b"3,tea,tomorrow,30": "day: Input should be a valid date",
    b"0,,2026-05-31,-1": "id: Input should be greater than 0; item: String should match",  # noqa: E501
    b"9223372036854775808,tea,2026-05-31,1": "id: Input should be less than",
    b"3,tea,2026-05-31": "argument 2 is shorter",
    b"3,tea,2026-05-31,1,50": "argument 2 is longer",
    b'3,"tea,2026-05-31,1': "unexpected end of data",
    b'3,"t"ea,2026-05-31,1': "',' expected after '\"'",
    b"3,\xff,2026-05-31,1": "invalid start byte",
    b"3,te\0a,2026-05-31,1": "item: String should match",
    b"3," + b"x" * 200_000 + b",2026-05-31,1": "field larger than field limit",
    b"3,tea,2026-05-31," + b"9" * 5000: "cents: Unable to parse",
}
BAD_ITEMS: dict[str, object] = {
    "day: Input should be a valid date": {
        "id": 3,
        "item": "tea",
        "day": None,
        "cents": 1,
    },
    "item: String should match": {
        "id": 3,
        "item": "t\0a",
        "day": "2026-05-31",
        "cents": 1,
    },
    "id: Field required; item: Field required": {},
    "Input should be a valid dictionary or": ["id", 3],
    "Input should be a valid dictionary": None,
}


@pytest.mark.asyncio
async def test_bad_lines_are_rejected_with_number_reason_and_text(
    make: Make, database_url: str, load: Load, rejects: Path
) -> None:
    lines = [b"id,item,day,cents", *BAD_LINES, b"1,tea 1,2026-05-31,10"]
    assert await load(make("sales.csv", b"\n".join(lines))) == 0
    assert await sold(database_url) == SOLD[:1]
    told = refused(rejects)
    assert [number for number, _, _ in told] == [*range(2, 2 + len(BAD_LINES))]
    for (_, told_reason, row), (line, reason) in zip(
        told, BAD_LINES.items(), strict=True
    ):
        assert reason in told_reason
        assert row == line.decode(errors="backslashreplace") + "\n"


@pytest.mark.asyncio
async def test_bad_items_are_rejected_with_number_and_reason_as_they_are(
    api_url: str,
    pages: list[list[object]],
    database_url: str,
    load: Load,
    rejects: Path,
) -> None:
    pages[1:1] = [[*BAD_ITEMS.values()]]
    assert await load(api_url) == 0
    assert await sold(database_url) == SOLD
    told = refused(rejects)
    assert [(number, row) for number, _, row in told] == [
        *enumerate(BAD_ITEMS.values(), 4)
    ]
    assert all(
        reason in told for reason, (_, told, _) in zip(BAD_ITEMS, told, strict=True)
    )


@pytest.mark.asyncio
async def test_rejects_are_valid_json_even_if_an_item_is_not(
    api_url: str, script: Script, load_sqlite: Load, rejects: Path
) -> None:
    script.append(web.Response(text='[{"id": NaN, "cents": -Infinity}]'))
    assert await load_sqlite(api_url) == 0
    [(_, _, row)] = refused(rejects)
    assert row == {"id": "NaN", "cents": "-Infinity"}


@pytest.mark.asyncio
async def test_a_byte_order_mark_before_ndjson_is_read_over(
    make: Make, load_sqlite: Load, sqlite_url: str
) -> None:
    line = b'{"id": 1, "item": "tea 1", "day": "2026-05-31", "cents": 10}'
    assert await load_sqlite(make("sales.ndjson", b"\xef\xbb\xbf" + line)) == 0
    assert await sold(sqlite_url) == SOLD[:1]


@pytest.mark.asyncio
async def test_what_is_no_json_is_rejected_in_pieces_of_a_megabyte(
    make: Make, load_sqlite: Load, sqlite_url: str, rejects: Path
) -> None:
    good = b'{"id": 1, "item": "tea 1", "day": "2026-05-31", "cents": 10}'
    bad = [b"{", b"[1]", b"\xff", b'{"id": 1}', b"x" * 3_000_000]
    assert await load_sqlite(make("sales.ndjson", b"\n".join([*bad, good]))) == 0
    assert await sold(sqlite_url) == SOLD[:1]
    assert [(number, len(str(row))) for number, _, row in refused(rejects)] == [
        (1, 2),
        (2, 4),
        (3, 5),  # as \xff
        (4, 10),
        (5, 2**20),
        (6, 2**20),
        (7, 3_000_001 - 2 * 2**20),
    ]


@pytest.mark.asyncio
async def test_the_rejects_of_all_sources_are_in_the_file_once(
    csv_file: str,
    make: Make,
    load_sqlite: Load,
    rejects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, another = make("other.ndjson", "{}\n" * 3), make("another.ndjson", "{}\n")
    monkeypatch.chdir(Path(csv_file).parent)
    for source in (
        "sales.csv",
        other,
        another,
        csv_file,
    ):  # the first and the last are the same
        assert await load_sqlite(source) == 0
    assert [line for line, _, _ in refused(rejects)] == [1, 1, 2, 3, 4]


# --- Killed, cancelled, failed: the next run goes on


@pytest.mark.asyncio
async def test_killed_again_and_again_at_any_moment_a_load_comes_to_the_same_end(
    csv_file: str,
    make: Make,
    database_url: str,
    load: Load,
    rejects: Path,
    killed_at: Callable[..., int],
) -> None:
    assert await load(make("empty.csv", "")) == 0  # which makes the tables
    options = {"database_url": database_url, "rejects": str(rejects), "batch": 3}
    counts = "(SELECT count(*) FROM sales), (SELECT count(*) FROM rejects), max(line)"
    places = [(0, 0, 0), (2, 1, 3), (5, 1, 6), (7, 1, 8)]  # sales, rejects, lines
    for moment in count(1):
        status = await asyncio.to_thread(killed_at, moment, source=csv_file, **options)
        if status == 0:
            break
        assert status == -9
        [place] = await execute(database_url, f"SELECT {counts} FROM cursors")  # noqa: S608
        assert place in places
        del places[: places.index(place)]  # it never goes back
    assert moment > 10
    assert await sold(database_url) == SOLD
    assert [line for line, _, _ in refused(rejects)] == [4]


# aiosqlite, cancelled while it connects, leaves it to Python to close the file.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.deadline(50)
@pytest.mark.asyncio
async def test_cancelled_at_any_await_a_load_comes_to_the_same_end(
    csv_file: str,
    load_sqlite: Load,
    sqlite_url: str,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    load = partial(load_sqlite, csv_file, batch=8)

    async def check() -> None:
        assert await load() == 0
        assert await sold(sqlite_url) == SOLD
        await clear(sqlite_url)

    assert await cancel_everywhere(load, check) > 10


@pytest.mark.asyncio
async def test_after_a_failure_too_the_next_run_comes_to_the_same_end(
    api_url: str, script: Script, database_url: str, load: Load, capsys: Capture
) -> None:
    page = web.json_response([], headers={"Link": '</sales?page=2>; rel="next"'})
    script += [page, web.Response(status=404)]
    assert await load(api_url) == 1
    assert capsys.readouterr().err.count("\n") == 1
    await execute(database_url, "DELETE FROM cursors")
    assert await load(api_url) == 0
    assert await sold(database_url) == SOLD


@pytest.mark.asyncio
async def test_a_load_goes_on_with_the_page_behind_the_rows_that_were_saved(
    api_url: str,
    pages: list[list[object]],
    seen: list[tuple[str, float]],
    database_url: str,
    load: Load,
    rejects: Path,
) -> None:
    assert await load(api_url) == 0
    await clear(database_url)
    place, other = (
        (api_url, f"{api_url}?page=3", 6),
        ("another", f"{api_url}?page=2", 3),
    )
    reject = (api_url, 2, '{"line": 2, "reason": "", "row": ""}')
    await execute(database_url, f"INSERT INTO cursors VALUES {other}, {place}")  # noqa: S608
    await execute(database_url, f"INSERT INTO rejects VALUES {reject}")  # noqa: S608
    pages[2].append("bad")
    assert await load(api_url) == 0
    assert await sold(database_url) == SOLD[6:]
    assert [page for page, _ in seen] == ["1", "2", "3", "3"]
    assert [line for line, _, _ in refused(rejects)] == [2, 8]


# --- An API in trouble


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, 504, "cut", "drop"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_trouble_that_may_pass_is_met_with_patience(
    session: ClientSession, api_url: str, script: Script, trouble: int | str
) -> None:
    # "drop" twice, as aiohttp itself repeats a GET that was dropped
    for _ in range(4 if trouble == "drop" else 2):
        script.append(
            web.Response(status=trouble) if isinstance(trouble, int) else trouble
        )
    batch = await read_page(session, api_url, Batch())
    assert (len(batch.raw), batch.line, batch.mark) == (3, 3, f"{api_url}?page=2")
    assert 6 <= now() < 7  # 2 s and 4 s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), ("3600", 60), ("soon", 2), ("", 2), ("9" * 5000, 60)],
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_api_that_says_when_to_come_back_is_obeyed_for_up_to_a_minute(
    session: ClientSession, api_url: str, script: Script, header: str, seconds: int
) -> None:
    script.append(web.Response(status=429, headers={"Retry-After": header}))
    await read_page(session, api_url, Batch())
    assert seconds <= now() < seconds + 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_api_that_keeps_silent_for_half_a_minute_is_asked_again(
    session: ClientSession, api_url: str, script: Script
) -> None:
    script.append("hang")
    assert (await read_page(session, api_url, Batch())).line == 3
    assert 32 <= now() < 33


@pytest.mark.parametrize("status", [500, 429])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_patience_ends_with_the_error_of_the_last_try(
    session: ClientSession, api_url: str, script: Script, status: int
) -> None:
    script += [
        web.Response(status=503),
        web.Response(status=status),
        web.Response(status=502),
    ]
    with pytest.raises(ClientError, match=str(status)):
        await read_page(session, api_url, Batch(), tries=2)
    assert len(script) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
@pytest.mark.asyncio
async def test_a_refusal_is_final(
    session: ClientSession, api_url: str, script: Script, status: int
) -> None:
    script.append(web.Response(status=status))
    with pytest.raises(ClientError, match=str(status)):
        await read_page(session, api_url, Batch())


@pytest.mark.parametrize(
    "body", ["", "<html>", "{}", '{"error": "quota"}', '[{"id": 1}', "null"]
)
@pytest.mark.asyncio
async def test_an_answer_that_is_no_list_is_an_error_and_not_the_end(
    session: ClientSession, api_url: str, script: Script, body: str
) -> None:
    script.append(web.Response(text=body))
    with pytest.raises(ClientError, match="no URL of a JSON list"):
        await read_page(session, api_url, Batch())


# --- What cannot work is told in one line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"source": "missing.csv"}, "missing.csv: [Errno 2] No such file"),
        ({"source": "http://"}, "http://: http://: no URL"),
        (
            {"source": "ftp://host/sales"},
            "ftp://host/sales: no URL",
        ),  # and not tried again
        ({"database_url": "postgresql+asyncpg://me@host:port/sales"}, "port"),
        (
            {"database_url": "postgresql+asyncpg://me@host/sales?sslmode=require"},
            "'sslmode'",
        ),
        (
            {"database_url": "postgresql+asyncpg://me@host/sales?nonsense=1"},
            "'nonsense'",
        ),
        ({"database_url": "sales.db"}, "Could not parse SQLAlchemy URL"),
        ({"database_url": "sqlite:///sales.db"}, "requires an async driver"),
        ({"database_url": "sqlite+nothing:///sales.db"}, "Can't load plugin"),
        (
            {"database_url": "mysql+aiomysql://localhost/sales"},
            "No module named 'aiomysql'",
        ),
        (
            {"database_url": "sqlite+aiosqlite:////no/such/folder/sales.db"},
            "No such file",
        ),
        (
            {"database_url": "postgresql+asyncpg://me:secret@/sales?host=/none"},
            "No such file",
        ),
        ({"rejects": Path("/no/such/folder/rejects.ndjson")}, "No such file"),
    ],
)
@pytest.mark.asyncio
async def test_what_cannot_work_is_told_in_one_line(
    csv_file: str,
    load_sqlite: Load,
    capsys: Capture,
    options: dict[str, str],
    told: str,
) -> None:
    assert await load_sqlite(**{"source": csv_file, **options}) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "content",
    [
        b"id,item,day,cents\r1,tea,2026-05-31,1\r",
        b"x" * 200_000,
        b"PK\x03\x04\r\x00\n\xff\n" * 9,
    ],
)
@pytest.mark.asyncio
async def test_what_is_no_csv_is_told_in_one_line(
    make: Make, load_sqlite: Load, capsys: Capture, content: bytes
) -> None:
    assert await load_sqlite(source := make("sales.csv", content)) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{source}: ")


@pytest.mark.asyncio
async def test_a_batch_may_be_larger_than_any_file(
    csv_file: str, load_sqlite: Load, sqlite_url: str
) -> None:
    assert await load_sqlite(csv_file, batch=10**30) == 0
    assert await sold(sqlite_url) == SOLD


@pytest.mark.parametrize("which", ["source", "link", "database"])
@pytest.mark.asyncio
async def test_the_file_for_rejects_never_replaces_what_a_load_needs(
    csv_file: str,
    load_sqlite: Load,
    sqlite_url: str,
    rejects: Path,
    capsys: Capture,
    which: str,
) -> None:
    assert await load_sqlite(csv_file) == 0
    capsys.readouterr()
    taken = Path(sqlite_url.partition(":///")[2] if which == "database" else csv_file)
    if which == "link":
        os.remove(rejects)
        os.symlink(taken, rejects)
    given = rejects if which == "link" else taken
    assert await load_sqlite(csv_file, rejects=given) == 1
    assert (
        capsys.readouterr().err == f"{csv_file}: the rejects would overwrite {given}\n"
    )
    await clear(sqlite_url)
    assert await load_sqlite(csv_file) == (1 if which == "link" else 0)
    assert await load_sqlite(csv_file, rejects=rejects.with_name("others")) == 0
    assert await sold(sqlite_url) == SOLD  # nothing is lost


@pytest.mark.asyncio
async def test_a_table_of_another_shape_is_told_in_one_line(
    csv_file: str, load_sqlite: Load, sqlite_url: str, capsys: Capture
) -> None:
    await execute(sqlite_url, "CREATE TABLE sales (id INTEGER PRIMARY KEY)")
    assert await load_sqlite(csv_file) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "no column named item" in line


@pytest.mark.asyncio
async def test_a_file_name_that_is_no_text_is_told_in_one_line(
    load_sqlite: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.TextIOWrapper(
        io.BytesIO(), "utf-8", "backslashreplace"
    )  # as the real one is
    monkeypatch.setattr(sys, "stderr", stderr)
    assert await load_sqlite("sales\udcff.csv") == 1
    stderr.seek(0)
    assert stderr.read().count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
@pytest.mark.asyncio
async def test_a_full_disk_stops_a_load_and_the_next_run_goes_on(
    csv_file: str, load_sqlite: Load, sqlite_url: str, rejects: Path, capsys: Capture
) -> None:
    assert await load_sqlite(csv_file, rejects=Path("/dev/full")) == 1
    assert capsys.readouterr().err.endswith("No space left on device\n")
    assert await load_sqlite(csv_file) == 0
    assert await sold(sqlite_url) == SOLD
    assert [line for line, _, _ in refused(rejects)] == [4]


# --- Stages


@pytest.mark.parametrize(("buffer", "most"), [(5, 7), (0, 3)])
@pytest.mark.asyncio
async def test_a_slow_stage_slows_down_those_before_it(buffer: int, most: int) -> None:
    made, gate = 0, asyncio.Event()

    async def fast(before: Batch) -> Batch:
        nonlocal made
        made += 1
        if made > most:
            raise RuntimeError("too many batches")
        return Batch("more")

    async def slow(batch: Batch) -> Batch:
        gate.set()
        await asyncio.Event().wait()
        return batch

    work = asyncio.create_task(pipeline(Batch(), fast, slow, buffer=buffer))
    await gate.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (
        made == most
    )  # one at work, five (or one) in the queue, one waits for a place there
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.shuffled(5)
@pytest.mark.asyncio
async def test_batches_keep_their_order() -> None:
    seen: dict[str, list[int]] = {"check": [], "save": []}

    async def read(before: Batch) -> Batch:
        await asyncio.sleep(0)
        return Batch("more" if before.line < 9 else "", before.line + 1)

    async def work(name: str, batch: Batch) -> Batch:
        await asyncio.sleep(0)
        seen[name].append(batch.line)
        return batch

    await pipeline(
        Batch(), read, partial(work, "check"), partial(work, "save"), buffer=2
    )
    assert seen == {"check": [*range(1, 11)], "save": [*range(1, 11)]}


@pytest.mark.asyncio
async def test_a_batch_of_any_size_leaves_the_loop_free_and_progress_is_logged(
    make: Make, load_sqlite: Load, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    lines = [f"{n},tea,2026-05-31,1\n" for n in range(1, 20_001)]
    source = make("sales.csv", "".join(["id,item,day,cents\n", *lines]))
    assert await load_sqlite(source, batch=1_000_000) == 0
    assert len(await sold(sqlite_url)) == 20_000
    [record] = caplog.records
    assert record.getMessage().startswith(
        "rows: 20,000 read, 20,000 loaded, 0 rejected; "
    )
