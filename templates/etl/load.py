"""Load: write batches to the database, each in one transaction with the position.

There are two more tables than the one that is loaded. `cursors` has the position up to
which each source has been loaded, and `rejects` has the rows that were rejected.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import Column, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from .engine import create_tables, open_engine
from .models import Int64, metadata
from .pipeline import Batch, Reject

# To prepare more rows at a time would block the event loop for too long.
ROWS_PER_STATEMENT = 1000
# Time limit for connecting, and for waiting for another program that writes to the same
# SQLite file, in seconds.
DATABASE_TIMEOUT = 60.0

REJECTS = Table(
    "rejects",
    metadata,
    Column("source", Text, primary_key=True),
    Column("line", Int64, primary_key=True, autoincrement=False),
    Column("reject", Text),
)

CURSORS = Table(
    "cursors",
    metadata,
    Column("source", Text, primary_key=True),
    Column("mark", Text),
    Column("line", Int64),
)

Row = Mapping[str, object]


class ConnectError(Exception):
    """The database cannot be opened, for a reason of one line."""


@asynccontextmanager
async def connect(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Connect to the database, and create the tables that do not exist.

    Raises ConnectError if the URL is not usable or the database cannot be opened.
    """
    async with AsyncExitStack() as stack:
        try:
            engine = await stack.enter_async_context(
                open_engine(database_url, pool_size=1, timeout=DATABASE_TIMEOUT)
            )
            await create_tables(engine, metadata)
            connection = await stack.enter_async_context(engine.connect())
        except (OSError, ValueError, sa.exc.SQLAlchemyError) as error:
            # The TimeoutError of a driver has no text.
            raise ConnectError(str(error) or "timed out") from error
        yield connection


# --- Batches


@dataclass(slots=True)
class Value:
    """A column that is written, and what converts its values for the driver."""

    name: str
    convert: Callable[[object], object] | None


class Upsert:
    """Writes rows to the columns of a table that have these names.

    A row replaces the row that has the same primary key. Raises ValueError if the names
    do not fit the table.

    The SQL and the conversions are prepared once. `connection.execute` would do it for
    every statement, which makes a load a fifth slower.
    """

    def __init__(
        self, table: Table, names: Collection[str], dialect: sa.Dialect
    ) -> None:
        check_names(table, names)
        columns = [column for column in table.c if column.name in names]
        self._values: list[Value] = []
        for column in columns:
            kind = column.type.dialect_impl(dialect)
            self._values.append(Value(column.name, kind.bind_processor(dialect)))
        self._sql = upsert_sql(table, [column.name for column in columns], dialect)

    async def execute(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Write the rows."""
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            part = rows[start : start + ROWS_PER_STATEMENT]
            await connection.exec_driver_sql(self._sql, self._parameters(part))

    def _parameters(self, rows: Sequence[Row]) -> list[tuple[object, ...]]:
        """Return the rows as the driver wants them."""
        columns: list[list[object]] = []
        for value in self._values:
            column = [row[value.name] for row in rows]
            if value.convert is not None:
                column = [value.convert(item) for item in column]
            columns.append(column)
        return list(zip(*columns, strict=True))


def check_names(table: Table, names: Collection[str]) -> None:
    """Raise ValueError if rows with these names cannot be written to the table."""
    for name in names:
        if name not in table.c:
            raise ValueError(f"the table {table.name} has no column {name}")
    keys = [column.name for column in table.primary_key]
    if not keys or not set(keys) <= set(names):
        raise ValueError(
            f"the table {table.name} needs a primary key that is in each row: a field "
            "called line is the row's line number"
        )


def upsert_sql(table: Table, names: Sequence[str], dialect: sa.Dialect) -> str:
    """Return the SQL of an upsert, with the parameters in the order of the names."""
    # Imported here because only one of the two dialects is needed, which saves time.
    module = import_module(f"sqlalchemy.dialects.{dialect.name}")
    parameters: dict[str, object] = {name: sa.bindparam(name) for name in names}
    upsert = module.insert(table).values(parameters)
    keys = [column.name for column in table.primary_key]
    replaced = {name: upsert.excluded[name] for name in names if name not in keys}
    statement = upsert.on_conflict_do_nothing()
    if replaced:
        statement = upsert.on_conflict_do_update(index_elements=keys, set_=replaced)
    return str(statement.compile(dialect=dialect))


class Loader:
    """Saves the batches of one source."""

    def __init__(
        self,
        connection: AsyncConnection,
        source: str,
        model: type[BaseModel],
        table: Table,
        *,
        is_resumable: bool,
    ) -> None:
        dialect = connection.dialect
        self._connection = connection
        self._source = source
        self._is_resumable = is_resumable
        self._rows = Upsert(table, model.model_fields, dialect)
        self._rejects = Upsert(REJECTS, REJECTS.c.keys(), dialect)
        self._cursors = Upsert(CURSORS, CURSORS.c.keys(), dialect)

    async def start(self) -> Batch:
        """Return an empty batch with the position where the previous load stopped.

        If there is no such position, the rejects of the previous load are deleted.
        """
        if self._is_resumable:
            query = sa.select(CURSORS.c.mark, CURSORS.c.line).where(
                CURSORS.c.source == self._source
            )
            row = (await self._connection.execute(query)).first()
            await self._connection.commit()
            if row is not None and row.mark:
                return Batch(mark=row.mark, line=row.line)
        async with self._connection.begin():
            await self._connection.execute(
                sa.delete(REJECTS).where(REJECTS.c.source == self._source)
            )
        return Batch()

    async def save(self, batch: Batch) -> None:
        """Save the rows, the rejects and the position of a batch, or none of them."""
        rows = [vars(row) for row in batch.rows]
        rejects = [self._reject_row(reject) for reject in batch.rejects]
        cursor = {"source": self._source, "mark": batch.mark, "line": batch.line}
        if not batch.mark:
            # The next load starts from the beginning.
            cursor["line"] = 0
        async with self._connection.begin():
            await self._rows.execute(self._connection, rows)
            await self._rejects.execute(self._connection, rejects)
            if self._is_resumable:
                await self._cursors.execute(self._connection, [cursor])

    def _reject_row(self, reject: Reject) -> Row:
        raw = reject.raw
        if isinstance(raw, str):
            # Bytes that could not be decoded are lone surrogates, which are not allowed
            # in JSON.
            raw = raw.encode("utf-8", "backslashreplace").decode()
        text = to_json(
            {
                "source": self._source,
                "line": reject.line,
                "reason": reject.reason,
                "row": raw,
            },
            inf_nan_mode="strings",
        )
        return {"source": self._source, "line": reject.line, "reject": text.decode()}


# --- The file for rejects


async def export_rejects(connection: AsyncConnection, path: Path) -> None:
    """Write the rejects of all sources to a file, one JSON object per line.

    The file is replaced as a whole. If another load has changed the rejects in the
    meantime, the file is written again, so that it never ends up with old rejects.
    """
    path = await asyncio.to_thread(path.resolve)
    if await asyncio.to_thread(is_special, path):
        await copy_rejects(connection, path)
        return
    new = path.with_name(f"{path.name}.{uuid4().hex}.new")
    try:
        written = b""
        while written != await copy_rejects(connection, None):
            written = await copy_rejects(connection, new)
            await asyncio.to_thread(new.replace, path)
    finally:
        await asyncio.to_thread(new.unlink, missing_ok=True)


async def copy_rejects(connection: AsyncConnection, path: Path | None) -> bytes:
    """Write the rejects to a file, unless `path` is None, and return their checksum."""
    checksum = sha256()
    if path is not None:
        await asyncio.to_thread(write_lines, path, "w", [])
    query = sa.select(REJECTS.c.reject).order_by(REJECTS.c.source, REJECTS.c.line)
    async with connection.stream_scalars(query) as result:
        while True:
            lines = await result.fetchmany(ROWS_PER_STATEMENT)
            if not lines:
                break
            checksum.update("".join(lines).encode())
            if path is not None:
                await asyncio.to_thread(write_lines, path, "a", lines)
    # End the transaction. It has only read.
    await connection.rollback()
    return checksum.digest()


def is_special(path: Path) -> bool:
    """Return whether this is a device or a pipe, which must not be replaced."""
    return path.exists() and not path.is_file()


def write_lines(path: Path, mode: str, lines: Iterable[str]) -> None:
    """Write or append lines to a file.

    The file is open only during this call, so that a load that is cancelled leaves no
    file open.
    """
    with path.open(mode, encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
