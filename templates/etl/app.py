"""Load sales from a paged API, an NDJSON or a CSV file into a database: none lost, none
twice.
"""

import asyncio
import csv
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from aiohttp import ClientError, ClientSession, ClientTimeout, NonHttpUrlClientError
from cyclopts.types import PositiveInt
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from rich.console import Console
from sqlalchemy import BigInteger, Column, Date, Integer, MetaData, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

log = logging.getLogger(__name__)
sqlite3.register_adapter(date, str)
FATAL = (
    ClientError,
    sa.exc.SQLAlchemyError,
    csv.Error,
    OSError,
    ImportError,
    ValueError,
    TypeError,
)
FIRST = {
    "sqlite": "PRAGMA journal_mode=WAL",
    "postgresql": "SELECT pg_advisory_xact_lock(1)",
}
PATIENCE = ClientTimeout(sock_connect=30, sock_read=30)  # seconds of silence
in_thread: Callable[..., Awaitable["Batch"]] = asyncio.to_thread
META, Col, Key = (
    MetaData(),
    Column,
    partial(Column, primary_key=True, autoincrement=False),
)
Big = BigInteger().with_variant(
    Integer, "sqlite"
)  # whose INTEGER has 64 bits and is the row id
SALES = Table(
    "sales",
    META,
    Key("id", Big),
    Col("item", Text),
    Col("day", Date),
    Col("cents", Big),
)
REJECTS = Table(
    "rejects", META, Key("source", Text), Key("line", Big), Col("reject", Text)
)
CURSORS = Table(
    "cursors", META, Key("source", Text), Col("mark", Text), Col("line", Big)
)


class Sale(BaseModel, str_strip_whitespace=True, str_to_upper=True):
    """A sale; what else a source says of it is ignored."""

    id: int = Field(gt=0, lt=2**63)
    item: str = Field(pattern=r"^[^\x00]{1,100}$")
    day: date
    cents: int = Field(ge=0, lt=2**63)


@dataclass(slots=True)
class Batch:
    """Numbered rows, what came of them, and the place behind them: no mark if nothing
    follows.
    """

    mark: str = ""
    line: int = 0
    raw: list[tuple[int, object]] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[tuple[object, ...]] = field(default_factory=list)
    rejects: list[tuple[object, ...]] = field(default_factory=list)


def read_file(path: str, size: int, before: Batch) -> Batch:
    """Return the next `size` lines, of 1 MiB at most, of a CSV or NDJSON file; raises
    OSError.
    """
    with open(
        path, "rb"
    ) as file:  # for one batch only: a cancelled run leaves nothing open
        header = file.readline(2**20) if path.lower().endswith(".csv") else b""
        file.seek(int(before.mark or len(header)))
        lines = enumerate(
            iter(partial(file.readline, 2**20), b""), before.line + 1 + bool(header)
        )
        raw = [row for _, row in zip(range(size), lines, strict=False)]
        mark = str(file.tell()) if raw else ""
    names = next(csv.reader([header.decode("utf-8-sig", "replace")]), [])
    return Batch(
        mark, before.line + len(raw), [row for row in raw if row[1].strip()], names
    )


async def read_page(
    session: ClientSession, url: str, before: Batch, tries: int = 5
) -> Batch:
    """Return the next page of an API; one that is cut off or refused for now is asked
    for again.
    """
    try:
        async with session.get(before.mark or url, raise_for_status=True) as response:
            items = TypeAdapter(list[object]).validate_json(await response.read())
            mark = (
                str(response.links["next"]["url"]) if "next" in response.links else ""
            )
            return Batch(
                mark, before.line + len(items), [*enumerate(items, before.line + 1)]
            )
    except (ValueError, NonHttpUrlClientError):
        raise ClientError(f"{before.mark or url}: no URL of a JSON list") from None
    except (ClientError, TimeoutError) as error:
        if tries <= 1 or getattr(error, "status", 503) not in (429, 500, 502, 503, 504):
            raise
        asked = (getattr(error, "headers", None) or {}).get("Retry-After", "")
        pause = min(float(asked), 60) if asked.isdecimal() else 2 ** max(1, 6 - tries)
        log.warning("next try in %d s: %s", pause, str(error) or repr(error))
    await asyncio.sleep(pause)
    return await read_page(session, url, before, tries - 1)


def check(source: str, batch: Batch) -> Batch:
    """Sort the raw rows of a batch into rows for the table and rejects."""
    for line, raw in batch.raw:
        try:
            if not isinstance(raw, bytes):
                sale = Sale.model_validate(raw)
            elif not batch.header:
                sale = Sale.model_validate_json(raw.removeprefix(b"\xef\xbb\xbf"))
            else:
                fields = next(csv.reader([raw.decode()], strict=True))
                sale = Sale.model_validate(dict(zip(batch.header, fields, strict=True)))
            batch.rows.append(tuple(vars(sale).values()))
        except (ValueError, csv.Error) as error:
            bad = error.errors() if isinstance(error, ValidationError) else []
            text = "; ".join(
                ": ".join(map(str, (*d["loc"], d["msg"]))) for d in bad
            ) or str(error)
            row = (
                raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
            )
            told = {"source": source, "line": line, "reason": text, "row": row}
            batch.rejects.append(
                (source, line, to_json(told, inf_nan_mode="strings").decode())
            )
    return batch


async def save(connection: AsyncConnection, source: str, batch: Batch) -> None:
    """Save what came of a batch in one transaction with the place behind it in the
    source.
    """
    place = (source, batch.mark, batch.line if batch.mark else 0)
    async with connection.begin():
        for table, rows in (
            (SALES, batch.rows),
            (REJECTS, batch.rejects),
            (CURSORS, [place]),
        ):
            if (
                kind := connection.dialect.name
            ) not in table.info:  # once; text is twice as fast
                new = (sqlite if kind == "sqlite" else postgresql).insert(table)
                put = new.on_conflict_do_update(
                    index_elements=table.primary_key, set_=new.excluded
                )
                table.info[kind] = str(put.compile(dialect=connection.dialect))
            for n in range(0, len(rows), 1000):  # more at a time would hold up the loop
                await connection.exec_driver_sql(table.info[kind], rows[n : n + 1000])


async def pipeline(
    first: Batch, *stages: Callable[..., Awaitable[Batch]], buffer: int = 4
) -> None:
    """Run the stages side by side, with at most `buffer` batches (or one) between two
    of them.
    """
    queues = [asyncio.Queue[Batch](max(1, buffer)) for _ in stages]

    async def run(n: int) -> None:
        batch = first
        while batch is first or batch.mark:
            batch = await stages[n](await queues[n].get() if n else batch)
            if n + 1 < len(stages):
                await queues[n + 1].put(batch)

    async with asyncio.TaskGroup() as group:
        for n in range(len(stages)):
            group.create_task(run(n))


async def main(
    source: str,
    *,
    database_url: str = "sqlite+aiosqlite:///sales.db",
    batch: PositiveInt = 5000,
    buffer: PositiveInt = 4,
    rejects: Path = Path("rejects.ndjson"),
) -> int:
    """Load sales from a CSV or NDJSON file or a paged API, from where the last run was
    stopped.

    Args:
        source: The file (.csv, else NDJSON), or the http(s) URL of the API's first
        page.
        database_url: The database, SQLite or PostgreSQL.
        batch: Lines of a file in one transaction (an API's page is one).
        buffer: Most batches that wait between two stages.
        rejects: The file for the rows that were refused, with line and reason.
    """
    name = (
        source
        if "://" in source
        else str(await asyncio.to_thread(Path(source).absolute))
    )
    status, began, done = (
        Console(stderr=True).status(""),
        time.perf_counter(),
        Counter[str](),
    )

    def write(mode: str, lines: Iterable[object]) -> None:
        if rejects.resolve() in {
            Path(it).resolve() for it in (name, engine.url.database or "")
        }:
            raise ValueError(f"the rejects would overwrite {rejects}")
        with rejects.open(mode) as file:  # for these lines only, as in read_file
            file.writelines(f"{line}\n" for line in lines)

    async def load(batch: Batch) -> Batch:
        await save(connection, name, batch)
        await asyncio.to_thread(write, "a", [row[-1] for row in batch.rejects])
        done.update(
            read=len(batch.raw), loaded=len(batch.rows), rejected=len(batch.rejects)
        )
        rows = ", ".join(f"{n:,} {what}" for what, n in done.items())
        status.update(
            f"rows: {rows}; {done['read'] / (time.perf_counter() - began):,.0f} a second"  # noqa: E501
        )
        if not status.console.is_terminal and done["read"] % 10_000 < len(batch.raw):
            log.info("%s", status.status)
        return batch

    try:
        engine = await asyncio.to_thread(
            create_async_engine, database_url, poolclass=sa.NullPool
        )
        if (
            engine.name == "sqlite"
        ):  # opened once here: aiosqlite's thread would outlive a failure
            await asyncio.to_thread(
                lambda: Path(engine.url.database or rejects).open("ab").close()
            )
        async with (
            ClientSession(timeout=PATIENCE) as session,
            engine.connect() as connection,
        ):
            with suppress(
                sa.exc.OperationalError
            ):  # SQLite lets one of many switch: enough
                await connection.exec_driver_sql(FIRST.get(engine.name, ""))
            for table in META.sorted_tables:
                await connection.execute(
                    sa.schema.CreateTable(table, if_not_exists=True)
                )
            place = sa.select(CURSORS.c.mark, CURSORS.c.line).where(
                CURSORS.c.source == name
            )
            last = Batch(*((await connection.execute(place)).first() or ()))
            await connection.execute(
                sa.delete(REJECTS).filter_by(source="" if last.mark else name)
            )
            others = sa.select(REJECTS.c.reject).order_by(*REJECTS.primary_key)
            await asyncio.to_thread(
                write, "w", (await connection.scalars(others)).all()
            )
            await connection.commit()
            read_lines = partial(in_thread, read_file, name, batch)
            read = partial(read_page, session, name) if "://" in source else read_lines
            with status:
                await pipeline(
                    last, read, partial(in_thread, check, name), load, buffer=buffer
                )
        print(status.status)
        return 0
    except* FATAL as errors:
        print(
            f"{source}: {errors.exceptions[0]}".splitlines()[0],
            file=status.console.file,
        )
    return 1
