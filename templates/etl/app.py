"""Load rows from a CSV file, an NDJSON file or a paged API into a database.

A load that was stopped, even by `kill -9`, resumes where it stopped: no row is lost,
and none is loaded twice.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import sqlalchemy as sa
from cyclopts import ArgumentCollection, Parameter, Token, UnknownOptionError
from cyclopts.types import PositiveFloat, PositiveInt
from cyclopts.validators import Number

from .files import STDIN, FileSource
from .load import ConnectError, Loader, connect, export_rejects
from .pipeline import Batch, SourceError, pipeline
from .progress import Progress
from .sales import SALES, Sale
from .text import mask_credentials, printable
from .transform import validate

log = logging.getLogger(__name__)

# What is loaded. To load something else, write a module like sales.py, and name its
# model and its table here.
MODEL = Sale
TABLE = SALES


def refuse_option(_type: object, text: str) -> None:
    """Raise UnknownOptionError if the source is an unknown option, such as --bach."""
    if text.startswith("-") and text != STDIN:
        token = Token(value=text, source="cli")
        no_arguments = ArgumentCollection()  # type: ignore[no-untyped-call]
        raise UnknownOptionError(token=token, argument_collection=no_arguments)


SourceName = Annotated[
    str, Parameter(allow_leading_hyphen=True, validator=refuse_option)
]
Headers = Annotated[Sequence[str], Parameter(negative="", show_default=False)]
Share = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]

# During a load, Python searches for reference cycles after the number of objects has
# grown by this many. Python's default is 700 or 2,000.
OBJECTS_PER_COLLECTION = 100_000

# These end a load with one line on stderr: bad input, or a database, a network or a
# disk that fails.
EXPECTED_ERRORS = (
    SourceError,
    ConnectError,
    sa.exc.SQLAlchemyError,
    OSError,
    ValueError,
)


class Source(Protocol):
    """The rows of a file or of an API, in batches.

    Positions and rejects are saved under `name`. A source that is not resumable is
    always loaded from the beginning.
    """

    name: str
    is_resumable: bool

    async def read(self, previous: Batch) -> Batch:
        """Return the batch after `previous`."""

    async def aclose(self) -> None:
        """Close what is open."""


@dataclass(slots=True)
class Counts:
    """How many rows this run has read, loaded and rejected."""

    loaded: int = 0
    rejected: int = 0

    @property
    def read(self) -> int:
        return self.loaded + self.rejected

    def __str__(self) -> str:
        return (
            f"rows: {self.read:,} read, {self.loaded:,} loaded, "
            f"{self.rejected:,} rejected"
        )


async def main(
    source: SourceName,
    *,
    database_url: str = "sqlite:///sales.db",
    rejects: Path = Path("rejects.ndjson"),
    max_rejects: Share = 0.5,
    batch: PositiveInt = 5000,
    buffer: PositiveInt = 4,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    items: str | None = None,
    header: Headers = (),
    timeout: PositiveFloat = 60.0,  # noqa: ASYNC109 - an option of the program
    attempts: PositiveInt = 5,
) -> int:
    """Load rows from a CSV file, an NDJSON file or a paged API into a database.

    Args:
        source: Path of a file, "-" for standard input, or URL of an API's first page.
        database_url: SQLAlchemy URL of the database.
        rejects: File for the rows that were rejected, with line number and reason.
        max_rejects: Maximum share of rejected rows, from 0 to 1. If there are more, the
            exit status is 1.
        batch: Rows of a file per transaction. For an API it is always one page.
        buffer: Maximum number of batches waiting between two stages.
        delimiter: Character between two values of a CSV file. By default, the first
            line of the file decides.
        encoding: Encoding of a file that has no byte order mark.
        items: Name of the list in a page of the API, if a page is an object.
        header: Header to send, as in "Authorization: Bearer x"; may be repeated.
        timeout: Time limit for one attempt, in seconds.
        attempts: Maximum number of attempts.
    """
    started = time.monotonic()
    counts = Counts()
    failure: BaseException | None = None
    try:
        if "://" in source:
            opened = open_api(source, items, header, timeout, attempts)
        else:
            opened = await asyncio.to_thread(
                open_file, source, batch, delimiter, encoding
            )
        async with aclosing(opened):
            await load(opened, database_url, counts, rejects, buffer)
    except* EXPECTED_ERRORS as group:
        failure = first_error(group)
    if failure is not None:
        print(explain(failure, source, database_url), file=sys.stderr)
        return 1

    seconds = time.monotonic() - started
    print(f"{counts}; {counts.read / seconds:,.0f} rows per second")
    if counts.rejected > max_rejects * counts.read:
        print(
            f"{one_line(source)}: {counts.rejected:,} of {counts.read:,} rows were "
            f"rejected, the reasons are in {one_line(rejects)}",
            file=sys.stderr,
        )
        return 1
    return 0


def open_file(
    path: str, batch_size: int, delimiter: str | None, encoding: str
) -> Source:
    """Return the rows of a file."""
    source = FileSource(
        path, MODEL, batch_size=batch_size, delimiter=delimiter, encoding=encoding
    )
    if not source.is_resumable:
        log.info(
            "%s is not a regular file: if this load is stopped, it cannot be resumed",
            one_line(path),
        )
    return source


def open_api(
    url: str,
    items: str | None,
    headers: Sequence[str],
    timeout: float,
    attempts: int,
) -> Source:
    """Return the rows of an API."""
    # Imported here because only an API needs aiohttp, and the import takes a while.
    from .api import ApiSource

    return ApiSource(
        url, items=items, headers=headers, timeout=timeout, attempts=attempts
    )


async def load(
    source: Source, database_url: str, counts: Counts, rejects: Path, buffer: int
) -> None:
    """Load a source into the database, and count the rows that have been saved."""
    async with connect(database_url) as connection:
        database = connection.engine.url.database
        await asyncio.to_thread(refuse_to_overwrite, rejects, source.name, database)
        loader = Loader(
            connection, source.name, MODEL, TABLE, is_resumable=source.is_resumable
        )
        first = await loader.start()
        try:
            await run_stages(source, loader, first, counts, buffer)
        except ExceptionGroup:
            # The rows that have been rejected may show what is wrong.
            with suppress(*EXPECTED_ERRORS):
                await export_rejects(connection, rejects)
            raise
        await export_rejects(connection, rejects)


async def run_stages(
    source: Source, loader: Loader, first: Batch, counts: Counts, buffer: int
) -> None:
    """Extract, transform and load batch after batch."""
    with Progress("rows") as progress, rare_collections():

        async def transform_stage(batch: Batch) -> Batch:
            return await asyncio.to_thread(validate, MODEL, batch)

        async def load_stage(batch: Batch) -> Batch:
            await loader.save(batch)
            counts.loaded += len(batch.rows)
            counts.rejected += len(batch.rejects)
            progress.advance(len(batch.rows) + len(batch.rejects))
            return batch

        await pipeline(first, source.read, transform_stage, load_stage, buffer=buffer)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python search for reference cycles less often during the block.

    Rows are not part of cycles. With Python's default, searching through the rows in
    memory takes a third of the time of a load.
    """
    threshold, *others = gc.get_threshold()
    gc.set_threshold(max(threshold, OBJECTS_PER_COLLECTION), *others)
    try:
        yield
    finally:
        gc.set_threshold(threshold, *others)


def refuse_to_overwrite(rejects: Path, source: str, database: str | None) -> None:
    """Raise ValueError if the file for rejects is the source or the database."""
    for path in (source, database):
        if path and rejects.resolve() == Path(path).resolve():
            raise ValueError(f"the rejects would overwrite {rejects}")


def first_error(group: BaseException) -> BaseException:
    """Return the first error in a group that may contain groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def explain(error: BaseException, source: str, database_url: str) -> str:
    """Return one line that says where an error is, and what it is."""
    place = source
    if isinstance(error, SourceError) and error.place is not None:
        place = error.place
    elif isinstance(error, ConnectError | sa.exc.SQLAlchemyError):
        place = database_url
    return f"{one_line(place)}: {one_line(error)}"


def one_line(text: object) -> str:
    """Return the first line of a text from outside, safe to print."""
    first_line = (str(text).splitlines() or [""])[0]
    return printable(mask_credentials(first_line))
