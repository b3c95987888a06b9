"""A ledger on SQLite or PostgreSQL; transfers happen whole or not at all, amounts are
in cents.
"""

import asyncio
import logging
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Annotated, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from cyclopts import Parameter, types, validators
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

log = logging.getLogger(__name__)
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
# Else programs that start at once make tables at once.
PG_LOCK = "SELECT pg_advisory_xact_lock(1)"
SQLITE_SETTINGS = "PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON"
column = partial(sa.Column, nullable=False)
party = partial(sa.ForeignKey, "accounts.name", deferrable=True, initially="DEFERRED")
NAME = column("name", sa.String, primary_key=True)
LEAST, MOST = (
    sa.CheckConstraint("balance >= 0"),
    sa.CheckConstraint("balance <= 1e15", "too_much"),
)
ACCOUNTS = sa.Table(
    "accounts", sa.MetaData(), NAME, column("balance", sa.BigInteger), LEAST, MOST
)
TRANSFERS = sa.Table(
    # Their ids are a variant: SQLite numbers by itself what is called INTEGER.
    "transfers",
    ACCOUNTS.metadata,
    column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    column("reference", sa.String, unique=True),
    *(column(name, party(), index=True) for name in ("payer", "payee")),
    column("amount", sa.BigInteger),
)


class UnavailableError(Exception):
    """The database cannot be used: not found, lost, locked for too long, full, or none
    at all.
    """


class RefusedError(Exception):
    """The ledger refuses a change; nothing has been changed."""


class DuplicateError(RefusedError):
    """A transfer with this reference has been made before."""


class Transfer(NamedTuple):
    """`payer` pays an `amount` from 1 to 10^15 to `payee`, once for each
    `reference`.
    """

    reference: str
    payer: str
    payee: str
    amount: int


class Ledger:
    """The ledger in a database; what takes longer than `patience` seconds is
    `UnavailableError`.
    """

    def __init__(self, engine: AsyncEngine, patience: float = 30.0) -> None:
        self.engine, self.patience = engine, patience

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Wait for a connection, begin, and commit; at an error or a cancellation roll
        back.
        """
        try:
            async with (
                asyncio.timeout(self.patience),
                self.engine.begin() as connection,
            ):
                yield connection
        except (
            sa.exc.SQLAlchemyError,
            OSError,
        ) as error:  # a TimeoutError is an OSError
            kind = (
                RefusedError
                if isinstance(error, sa.exc.IntegrityError)
                else UnavailableError
            )
            raise kind(
                str(getattr(error, "orig", error)) or "no answer in time"
            ) from error

    async def open_accounts(
        self, opening: Mapping[str, int], *, missing: bool = False
    ) -> None:
        """Open all, or all `missing`, with 0 to 10^15 each; else none, and raise
        `RefusedError`.
        """
        insert = "INSERT INTO accounts (name, balance) VALUES (:name, :cents)"
        insert += " ON CONFLICT DO NOTHING" if missing else ""
        if rows := [
            {"name": name, "cents": cents} for name, cents in sorted(opening.items())
        ]:
            async with self.transaction() as connection:  # sorted, so no deadlock
                await connection.execute(
                    sa.text(insert), rows
                )  # at once: 40 times faster

    async def transfer(self, order: Transfer) -> None:
        """Make a transfer; raise `RefusedError` if it cannot be, ValueError if it is
        absurd.
        """
        if not 1 <= order.amount <= 10**15 or order.payer == order.payee:
            raise ValueError(f"not a transfer: {order}")
        changes = sorted([(order.payer, -order.amount), (order.payee, order.amount)])
        change = sa.text(
            "UPDATE accounts SET balance = balance + :change WHERE name = :account"
        )
        refusal: RefusedError = DuplicateError(f"made before: {order.reference}")
        try:
            async with self.transaction() as connection:
                await connection.execute(sa.insert(TRANSFERS), order._asdict())
                refusal = RefusedError(f"{order.payer} cannot pay {order.amount}")
                # The database adds, so no update is lost; in the order of names, so no
                # deadlock.
                await connection.execute(
                    change, [{"account": a, "change": c} for a, c in changes]
                )
                refusal = RefusedError(f"no account of {order.payer} or {order.payee}")
        except RefusedError as error:
            if "too_much" in str(error).splitlines()[0]:  # below may be names
                refusal = RefusedError(f"{order.payee} cannot take {order.amount}")
            raise refusal from error

    async def balances(self) -> dict[str, int]:
        """Return all balances, as they are at one moment."""
        async with self.transaction() as connection:
            rows = await connection.execute(
                sa.select(ACCOUNTS).order_by(ACCOUNTS.c.name)
            )
            return {row.name: row.balance for row in rows}

    async def statement(
        self, account: str, *, page: int = 500
    ) -> AsyncIterator[Transfer]:
        """Yield the transfers of `account` so far, newest first, reading `page` rows at
        a time.
        """
        mine = sa.or_(TRANSFERS.c.payer == account, TRANSFERS.c.payee == account)
        query = (
            sa.select(TRANSFERS)
            .where(mine)
            .order_by(TRANSFERS.c.id.desc())
            .limit(max(1, page))
        )
        before = sys.maxsize
        while before:
            async with (
                self.transaction() as connection
            ):  # none is held while the caller has a row
                rows = (
                    await connection.execute(query.where(TRANSFERS.c.id < before))
                ).all()
            for row in rows:
                yield Transfer(*row[1:])
            before = rows[-1].id if rows and len(rows) >= page else 0


@asynccontextmanager
async def open_ledger(
    url: str, *, pool: int = 5, patience: float = 30.0
) -> AsyncIterator[Ledger]:
    """Open the ledger, over at most `pool` connections (SQLite: one); many may do so at
    once.
    """
    if not (pool > 0 and patience > 0):
        raise ValueError(f"limits must be positive: {pool=}, {patience=}")
    async with AsyncExitStack() as stack:
        try:
            lite = (u := sa.make_url(url)).get_backend_name() == "sqlite"
            query = {
                key.replace("sslmode", "ssl"): value for key, value in u.query.items()
            }
            engine = await asyncio.to_thread(
                create_async_engine,  # in a thread: it imports the driver
                u.set(drivername=DRIVERS.get(u.drivername, u.drivername), query=query),
                connect_args={
                    "timeout": patience
                },  # asyncpg's to connect, SQLite's for its lock
                pool_size=1
                if lite
                else pool,  # a queue here is faster than at SQLite's lock
                max_overflow=0,
                pool_pre_ping=not lite,  # connect anew after a restart of the server
            )
            stack.push_async_callback(engine.dispose)
            if lite:  # opened once here: aiosqlite's thread would outlive a failure
                await asyncio.to_thread(
                    lambda: sqlite3.connect(u.database or "", uri=True).close()
                )
                on = partial(sa.event.listen, engine.sync_engine)
                on(
                    "connect",
                    lambda c, _: c.run_async(
                        lambda r: r.executescript(SQLITE_SETTINGS)
                    ),
                )
                on("invalidate", lambda c, *_: c.rollback())  # or it keeps its lock
            async with Ledger(engine, patience).transaction() as connection:
                if lite:
                    with suppress(
                        sa.exc.OperationalError
                    ):  # of many at once one does it: enough
                        await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                await connection.exec_driver_sql("BEGIN IMMEDIATE" if lite else PG_LOCK)
                await connection.run_sync(TRANSFERS.metadata.create_all)
        except (
            sa.exc.SQLAlchemyError,
            sqlite3.Error,
            ImportError,
            TypeError,
            ValueError,
        ) as error:
            raise UnavailableError(f"cannot use this database URL: {error}") from error
        yield Ledger(engine, patience)


async def main(
    *,
    database_url: str = "sqlite+aiosqlite:///ledger.db",
    accounts: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 10,
    transfers: types.NonNegativeInt = 1000,
    concurrency: types.PositiveInt = 10,
) -> int:
    """Open accounts, make random transfers between them, and print the balances.

    Args:
        database_url: Database of the ledger, SQLite or PostgreSQL.
        accounts: Number of accounts; each opens with 100.00.
        transfers: Number of transfers.
        concurrency: Most transfers at a time.
    """
    names = [f"account {n:04}" for n in range(1, accounts + 1)]
    bar = Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    task = bar.add_task("transfers", total=transfers)
    turns, made = iter(range(transfers)), 0

    async def work(ledger: Ledger) -> None:
        nonlocal made
        for _ in turns:  # one iterator for all workers: each takes the next turn
            payer, payee = random.sample(names, 2)
            with suppress(RefusedError):
                await ledger.transfer(
                    Transfer(uuid4().hex, payer, payee, random.randint(1, 50_00))  # noqa: S311
                )
                made += 1
            bar.advance(task)

    try:
        async with open_ledger(database_url, pool=concurrency) as ledger:
            await ledger.open_accounts(dict.fromkeys(names, 100_00), missing=True)
            log.info("%d transfers between %d accounts", transfers, accounts)
            with bar:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(concurrency, transfers)):
                        workers.create_task(work(ledger))
            balances = await ledger.balances()
        for name, balance in [*balances.items(), ("total", sum(balances.values()))]:
            print(f"{name:12} {balance / 100:14,.2f}")
        log.info("%d of %d transfers made", made, transfers)
        return 0
    except* (
        UnavailableError,
        RefusedError,
    ) as errors:  # from open_ledger, or from the workers
        print(errors.exceptions[0], file=sys.stderr)
    return 1
