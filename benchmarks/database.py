"""What `database` costs compared with sqlite3, and gains over SQLAlchemy's defaults.

    uv run --group bench python benchmarks/database.py [--json FILE]

Each figure is a ratio of two medians, measured in turns in one run after a warm-up.
Both sides have the same tables and commit the same rows.
"""

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import harness
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import create_async_engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from database.ledger import Ledger, Order, open_ledger
from database.models import Base

ROWS, COMMITS, TASKS = 10_000, 1_000, 10
NAMES = [f"{number}" for number in range(COMMITS)]
OPENING = {f"account {number:06}": 100_00 for number in range(ROWS)}

Work = Callable[[Ledger], Coroutine[None, None, float]]
Subject = Callable[[Path], Coroutine[None, None, float]]


async def batch_by_sqlite3(file: Path) -> float:
    async with open_ledger(f"sqlite:///{file}"):
        pass  # makes the tables
    connection = sqlite3.connect(file)
    # As the ledger has it. The write-ahead log is a setting of the file.
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
    """A ledger with the default pool of SQLAlchemy and the default journal of SQLite.

    Only the time limit is raised: within 5 s it fails with "database is locked".
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


async def at_a_time(works: list[Coroutine[None, None, None]]) -> float:
    """Do the work, TASKS pieces at a time; return how long it took."""
    turns = iter(works)

    async def work() -> None:
        for piece in turns:
            await piece

    began = time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(TASKS):
            workers.create_task(work())
    return time.perf_counter() - began


async def commits(ledger: Ledger) -> float:
    took = await at_a_time([ledger.open_accounts({name: 1}) for name in NAMES])
    assert len(await ledger.balances()) == COMMITS
    return took


async def transfers(ledger: Ledger) -> float:
    await ledger.open_accounts({"ann": COMMITS, "bob": 0})
    took = await at_a_time(
        [ledger.transfer(Order(name, "ann", "bob", 1)) for name in NAMES]
    )
    assert await ledger.balances() == {"ann": 0, "bob": COMMITS}
    return took


def by_ledger(work: Work) -> Subject:
    async def subject(file: Path) -> float:
        async with open_ledger(f"sqlite:///{file}", timeout=120) as ledger:
            return await work(ledger)

    return subject


def by_defaults(work: Work) -> Subject:
    async def subject(file: Path) -> float:
        async with default_ledger(file) as ledger:
            return await work(ledger)

    return subject


def measure(rounds: int, *subjects: Subject) -> list[float]:
    """Run the subjects in turns, each on a new file; return their median seconds."""
    times: list[list[float]] = [[] for _ in subjects]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for which, subject in enumerate(subjects):
                file = Path(folder, f"{turn}-{which}.db")
                times[which].append(asyncio.run(subject(file)))
    return [median(taken[1:]) for taken in times]


def main() -> None:
    arguments = harness.parser(__doc__).parse_args()
    plain, batch = measure(9, batch_by_sqlite3, batch_by_ledger)
    slow, fast = measure(5, by_defaults(commits), by_ledger(commits))
    slow_transfers, fast_transfers = measure(
        3, by_defaults(transfers), by_ledger(transfers)
    )
    table = Table("figure", "other", "ledger", "ratio", "goal")
    results = {}
    for name, figure, other, ours, ratio, goal in (
        (
            "batch",
            f"{ROWS:,} rows in a batch, beside sqlite3's executemany",
            plain,
            batch,
            batch / plain,
            "<= 3",
        ),
        (
            "commits",
            f"{COMMITS:,} commits by {TASKS} tasks, beside default settings",
            slow,
            fast,
            slow / fast,
            ">= 5",
        ),
        (
            "transfers",
            f"{COMMITS:,} transfers, likewise",
            slow_transfers,
            fast_transfers,
            slow_transfers / fast_transfers,
            "",
        ),
    ):
        table.add_row(
            figure,
            f"{other * 1000:,.0f} ms",
            f"{ours * 1000:,.0f} ms",
            f"{ratio:.2f}",
            goal,
        )
        results[name] = {"other_s": other, "ledger_s": ours, "ratio": ratio}
    Console(width=120).print(table)
    harness.keep(results, arguments.json)


if __name__ == "__main__":
    main()
