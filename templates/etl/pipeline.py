"""Run the stages of a load concurrently, with a bounded queue between each two."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic import BaseModel

# A field of the model with this name gets the line number of the row.
LINE_FIELD = "line"


class SourceError(Exception):
    """The source cannot be loaded, for a reason of one line.

    `place` is the page where the error is, if the source has pages.
    """

    def __init__(self, reason: str, place: str | None = None) -> None:
        super().__init__(reason)
        self.place = place


@dataclass(slots=True)
class Record:
    """A row as it stands in the source.

    `line` is the number of its first line in a file, or of the item in an API. `raw` is
    the row itself; it is stored if the row is rejected. `values` are its values, by
    name.
    """

    line: int
    raw: object
    values: object


@dataclass(slots=True)
class Reject:
    """A row that was not loaded, and the reason."""

    line: int
    raw: object
    reason: str


@dataclass(slots=True)
class Batch:
    """A few thousand rows on their way from the source to the database.

    `mark` and `line` say where the next batch begins. Each source has its own form of
    marks. An empty mark means that this batch is the last one.
    """

    mark: str = ""
    line: int = 0
    records: list[Record] = field(default_factory=list)
    rows: list[BaseModel] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


Stage = Callable[[Batch], Awaitable[Batch]]


async def pipeline(first: Batch, *stages: Stage, buffer: int) -> None:
    """Pass batches through all stages, up to the first batch with an empty mark.

    The first stage receives the previous batch and returns the next one; it begins with
    `first`. Every other stage receives what the stage before it has returned. At most
    `buffer` batches (at least one) wait between two stages, so a slow stage slows down
    the stages before it. If a stage fails, the others are cancelled, and its error is
    raised in an ExceptionGroup.
    """
    queues = [asyncio.Queue[Batch](max(1, buffer)) for _ in stages[1:]]

    async def produce() -> None:
        batch = await stages[0](first)
        while batch.mark:
            await queues[0].put(batch)
            batch = await stages[0](batch)
        await queues[0].put(batch)

    async def work(number: int) -> None:
        while True:
            batch = await queues[number - 1].get()
            batch = await stages[number](batch)
            if number < len(queues):
                await queues[number].put(batch)
            if not batch.mark:
                return

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        for number in range(1, len(stages)):
            group.create_task(work(number))
