"""Measure a batch insert against sqlite3, and commits against SQLAlchemy's defaults.

    uv run --group bench python benchmarks/database.py

A batch of 10,000 rows is compared with `executemany` of sqlite3. 1,000 commits and
1,000 transfers by 10 tasks are compared with the default settings of SQLAlchemy and
SQLite. Both sides have the same tables and commit the same rows.
"""

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import harness
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import create_async_engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from database.ledger import Ledger, Order, open_ledger
from database.models import Base

ROWS = 10_000
COMMITS = 1_000
TASKS = 10
NAMES = [f"{number}" for number in range(COMMITS)]
OPENING = {f"account {number:06}": 100_00 for number in range(ROWS)}

# Does something with a ledger, and returns the seconds that it took.
Work = Callable[[Ledger], Coroutine[None, None, float]]
# The same for a database file.
Subject = Callable[[Path], Coroutine[None, None, float]]


async def batch_by_sqlite3(file: Path) -> float:
    # This creates the tables.
    async with open_ledger(f"sqlite:///{file}"):
        pass
    connection = sqlite3.connect(file)
    # The same settings as those of the ledger. The write-ahead log is a setting of the
    # file, so it is on already.
    connection.executescript("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON")
    began = time.perf_counter()
    with connection:
        connection.executemany(
            "INSERT INTO accounts (name, balance) VALUES (?, ?)", OPENING.items()
        )
    took = time.perf_counter() - began
    connection.close()
    return took


async def batch_by_ledger(file: Path) -> float:
    async with open_ledger(f"sqlite:///{file}") as ledger:
        began = time.perf_counter()
        await ledger.open_accounts(OPENING)
        return time.perf_counter() - began


@asynccontextmanager
async def default_ledger(file: Path) -> AsyncIterator[Ledger]:
    """Open a ledger with the default pool of SQLAlchemy and journal of SQLite.

    Only the timeout is longer: with 5 s it fails with "database is locked".
    """
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{file}", connect_args={"timeout": 120}
    )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield Ledger(engine, timeout=120)
    finally:
        await engine.dispose()


async def run_concurrently(operations: list[Coroutine[None, None, None]]) -> float:
    """Run the operations with TASKS workers; return the seconds that they took."""
    pending = iter(operations)

    async def work() -> None:
        for operation in pending:
            await operation

    began = time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(TASKS):
            workers.create_task(work())
    return time.perf_counter() - began


async def commits(ledger: Ledger) -> float:
    """Open 1,000 accounts, each in a transaction of its own."""
    operations = [ledger.open_accounts({name: 1}) for name in NAMES]
    took = await run_concurrently(operations)
    assert len(await ledger.balances()) == COMMITS
    return took


async def transfers(ledger: Ledger) -> float:
    """Make 1,000 transfers between two accounts."""
    await ledger.open_accounts({"ann": COMMITS, "bob": 0})
    orders = [Order(name, "ann", "bob", 1) for name in NAMES]
    took = await run_concurrently([ledger.transfer(order) for order in orders])
    assert await ledger.balances() == {"ann": 0, "bob": COMMITS}
    return took


def by_ledger(work: Work) -> Subject:
    """Return the work for a file, with the settings of the starter."""

    async def subject(file: Path) -> float:
        async with open_ledger(f"sqlite:///{file}", timeout=120) as ledger:
            return await work(ledger)

    return subject


def by_defaults(work: Work) -> Subject:
    """Return the work for a file, with the default settings."""

    async def subject(file: Path) -> float:
        async with default_ledger(file) as ledger:
            return await work(ledger)

    return subject


@dataclass
class Medians:
    """Median times in seconds."""

    other: float
    ledger: float


def measure(rounds: int, other: Subject, ledger: Subject) -> Medians:
    """Run both in turns after a warm-up, each time on a new file."""
    ways = {"other": partial(run, other), "ledger": partial(run, ledger)}
    times = harness.in_turns(rounds, ways)
    return Medians(median(times["other"]), median(times["ledger"]))


def run(subject: Subject) -> float:
    """Run a subject on a new file; return the seconds that it measured."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(subject(Path(folder, "ledger.db")))


def main() -> None:
    options = harness.parser(__doc__, rounds=5).parse_args()
    rounds = options.rounds
    batch = measure(rounds, batch_by_sqlite3, batch_by_ledger)
    committed = measure(rounds, by_defaults(commits), by_ledger(commits))
    transferred = measure(rounds, by_defaults(transfers), by_ledger(transfers))

    results: dict[str, dict[str, float]] = {}
    table = Table("figure", "other", "ledger", "ratio", "goal")

    def add(key: str, figure: str, medians: Medians, ratio: float, goal: str) -> None:
        results[key] = {
            "other_s": medians.other,
            "ledger_s": medians.ledger,
            "ratio": ratio,
        }
        other_ms = f"{medians.other * 1000:,.0f} ms"
        ledger_ms = f"{medians.ledger * 1000:,.0f} ms"
        table.add_row(figure, other_ms, ledger_ms, f"{ratio:.2f}", goal)

    add(
        key="batch",
        figure=f"{ROWS:,} rows in a batch, against sqlite3's executemany",
        medians=batch,
        ratio=batch.ledger / batch.other,
        goal="<= 3",
    )
    add(
        key="commits",
        figure=f"{COMMITS:,} commits by {TASKS} tasks, against default settings",
        medians=committed,
        ratio=committed.other / committed.ledger,
        goal=">= 5",
    )
    add(
        key="transfers",
        figure=f"{COMMITS:,} transfers by {TASKS} tasks, against default settings",
        medians=transferred,
        ratio=transferred.other / transferred.ledger,
        goal="",
    )
    Console(width=120).print(table)
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
