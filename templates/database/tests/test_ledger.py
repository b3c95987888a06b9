"""What the ledger promises: the same tests on SQLite and on PostgreSQL."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import aiosqlite
import pytest
import sqlalchemy as sa
from pytest_mock import MockerFixture
from sqlalchemy.ext.asyncio import AsyncSession

from database.errors import (
    DuplicateError,
    LedgerError,
    RefusedError,
    UnavailableError,
    UnknownAccountError,
)
from database.ledger import Ledger, Order, open_ledger
from database.models import Account, Transfer


def pay(amount: int = 1, payer: str = "ann", payee: str = "bob") -> Order:
    """Return an order with a new reference."""
    return Order(uuid4().hex, payer, payee, amount)


async def references(ledger: Ledger, account: str = "ann") -> list[str]:
    """Return the references on the statement of an account."""
    return [transfer.reference async for transfer in ledger.statement(account)]


async def withdraw(session: AsyncSession, amount: int, name: str = "ann") -> None:
    """Do the first half of a transfer."""
    await session.execute(
        sa.update(Account)
        .where(Account.name == name)
        .values(balance=Account.balance - amount)
    )


async def failures(*work: Awaitable[object]) -> list[type]:
    """Do all of it at the same time; return the types of the errors."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    return [type(outcome) for outcome in outcomes if outcome is not None]


async def log_size(folder: Path) -> int:
    """Return the size of SQLite's write-ahead log."""
    status = await asyncio.to_thread((folder / "ledger.db-wal").stat)
    return status.st_size


async def sqlite_threads_end() -> None:
    """Wait until SQLite's connections, each of which has a thread, are closed."""
    for thread in threading.enumerate():
        if "connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


# --- Transfers


@pytest.mark.asyncio
async def test_a_transfer_moves_money_and_is_on_both_statements(
    ledger: Ledger,
) -> None:
    await ledger.transfer(Order("rent", "ann", "bob", 70))
    assert await ledger.balances() == {"ann": 30, "bob": 70}
    assert await ledger.balance("bob") == 70
    for account in ("ann", "bob"):
        [transfer] = [transfer async for transfer in ledger.statement(account)]
        assert transfer.reference == "rent"
        assert (transfer.payer, transfer.payee) == ("ann", "bob")
        assert transfer.amount == 70


@pytest.mark.parametrize("_turn", ["first", "second"])
@pytest.mark.asyncio
async def test_each_test_has_a_new_database(ledger: Ledger, _turn: str) -> None:
    await ledger.transfer(Order("the same in both", "ann", "bob", 100))
    assert len(await references(ledger)) == 1


@pytest.mark.asyncio
async def test_concurrent_transfers_lose_no_update(ledger: Ledger) -> None:
    assert await failures(*(ledger.transfer(pay(1)) for _ in range(60))) == []
    assert await ledger.balances() == {"ann": 40, "bob": 60}
    assert len(await references(ledger)) == 60


@pytest.mark.asyncio
async def test_transfers_in_opposite_directions_do_not_deadlock(
    ledger: Ledger,
) -> None:
    await ledger.transfer(pay(50))
    waiting = sa.text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
    crossing = list[asyncio.Task[list[type]]]()
    async with asyncio.TaskGroup() as group, ledger.transaction() as session:
        # Ann's row stays locked until both transfers wait for it, in this order.
        await withdraw(session, 0)
        for count, order in enumerate([pay(1), pay(1, "bob", "ann")], 1):
            crossing.append(group.create_task(failures(ledger.transfer(order))))
            if ledger.engine.dialect.name == "postgresql":
                while await session.scalar(waiting) < count:
                    pass
    assert [task.result() for task in crossing] == [[], []]
    assert await ledger.balances() == {"ann": 50, "bob": 50}


@pytest.mark.asyncio
async def test_two_programs_lose_no_update(database_url: str) -> None:
    async with open_ledger(database_url) as one, open_ledger(database_url) as other:
        await one.open_accounts({"ann": 100, "bob": 0})
        both = [program.transfer(pay(1)) for program in (one, other) for _ in range(20)]
        assert await failures(*both) == []
        assert await one.balances() == await other.balances() == {"ann": 60, "bob": 40}


@pytest.mark.asyncio
async def test_no_balance_goes_below_zero(ledger: Ledger) -> None:
    refused = await failures(*(ledger.transfer(pay(30)) for _ in range(10)))
    assert refused == [RefusedError] * 7
    assert await ledger.balances() == {"ann": 10, "bob": 90}
    with pytest.raises(RefusedError, match=r"^ann cannot pay 11$"):
        await ledger.transfer(pay(11))


@pytest.mark.asyncio
async def test_no_balance_exceeds_its_limit(ledger: Ledger) -> None:
    await ledger.open_accounts({"eve": 10**15 - 4})
    with pytest.raises(RefusedError, match=r"^eve cannot take 5$"):
        await ledger.transfer(pay(5, payee="eve"))
    await ledger.transfer(pay(4, payee="eve"))
    assert await ledger.balances() == {"ann": 96, "bob": 0, "eve": 10**15}


@pytest.mark.asyncio
async def test_a_reference_is_used_once_even_by_concurrent_transfers(
    ledger: Ledger,
) -> None:
    order = pay(100)
    outcomes = await failures(*(ledger.transfer(order) for _ in range(8)))
    assert outcomes == [DuplicateError] * 7
    assert await ledger.balances() == {"ann": 0, "bob": 100}
    # Not because Ann has no money left.
    with pytest.raises(DuplicateError, match=order.reference):
        await ledger.transfer(order)


@pytest.mark.parametrize("order", [pay(1, payer="eve"), pay(1, payee="eve")])
@pytest.mark.asyncio
async def test_an_unknown_account_is_named(ledger: Ledger, order: Order) -> None:
    with pytest.raises(UnknownAccountError, match=r"^there is no account eve$"):
        await ledger.transfer(order)
    with pytest.raises(UnknownAccountError, match=r"^there is no account eve$"):
        await ledger.balance("eve")
    assert await ledger.balances() == {"ann": 100, "bob": 0}
    assert await references(ledger) == []


@pytest.mark.parametrize("order", [pay(0), pay(-1), pay(10**30), pay(1, "ann", "ann")])
@pytest.mark.asyncio
async def test_an_invalid_order_is_a_value_error(order: Order, sqlite_url: str) -> None:
    async with open_ledger(sqlite_url) as ledger:
        with pytest.raises(ValueError, match="must be"):
            await ledger.transfer(order)


@pytest.mark.asyncio
async def test_an_error_in_a_transaction_rolls_it_back(ledger: Ledger) -> None:
    async def fail_half_way() -> None:
        async with ledger.transaction() as session:
            await withdraw(session, 100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_half_way()
    assert await ledger.balances() == {"ann": 100, "bob": 0}


@pytest.mark.asyncio
async def test_a_transfer_cancelled_at_any_await_is_made_completely_or_not_at_all(
    ledger: Ledger, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def whole() -> None:
        count = len(await references(ledger))
        assert await ledger.balances() == {"ann": 100 - count, "bob": count}

    assert await cancel_everywhere(lambda: ledger.transfer(pay(1)), whole) > 5


@pytest.mark.asyncio
async def test_a_program_killed_during_a_transaction_leaves_a_consistent_ledger(
    tmp_path: Path,
) -> None:
    async with open_ledger(f"sqlite:///{tmp_path.as_posix()}/ledger.db") as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        await ledger.transfer(pay(10))
        size = await log_size(tmp_path)
        async with ledger.transaction() as session:
            # SQLite writes before the commit, because its cache is full.
            await session.execute(sa.text("PRAGMA cache_size = 1"))
            await withdraw(session, 50)
            rows = [{"name": str(number), "balance": 1} for number in range(2000)]
            await session.execute(sa.insert(Account), rows)
            assert await log_size(tmp_path) > size
            # What a kill would leave behind at this moment.
            left = tmp_path.with_name(f"{tmp_path.name}-left")
            await asyncio.to_thread(shutil.copytree, tmp_path, left)
    async with open_ledger(f"sqlite:///{left.as_posix()}/ledger.db") as ledger:
        assert await ledger.balances() == {"ann": 90, "bob": 10}


# --- Accounts


@pytest.mark.asyncio
async def test_accounts_are_opened_all_or_none(ledger: Ledger) -> None:
    for opening in ({"eve": 1, "ann": 1}, {"eve": -1}, {"eve": 10**16}):
        with pytest.raises(RefusedError):
            await ledger.open_accounts(opening)
    assert await ledger.balances() == {"ann": 100, "bob": 0}


@pytest.mark.asyncio
async def test_missing_accounts_are_opened_and_the_others_stay(ledger: Ledger) -> None:
    await ledger.open_missing_accounts({})
    await ledger.open_missing_accounts({"abe": 7, "ann": 9})
    with pytest.raises(RefusedError):
        await ledger.open_missing_accounts({"abe": 8, "eve": -1})
    assert list((await ledger.balances()).items()) == [
        ("abe", 7),
        ("ann", 100),
        ("bob", 0),
    ]


@pytest.mark.asyncio
async def test_accounts_opened_by_two_programs_at_once_do_not_deadlock(
    ledger: Ledger,
) -> None:
    names = [f"{number:03}" for number in range(500)]
    forwards = ledger.open_accounts(dict.fromkeys(names, 1))
    backwards = ledger.open_accounts(dict.fromkeys(reversed(names), 1))
    assert await failures(forwards, backwards) == [RefusedError]
    assert len(await ledger.balances()) == 502


@pytest.mark.asyncio
async def test_no_value_of_a_row_may_be_missing(ledger: Ledger) -> None:
    async def insert(table: type, row: dict[str, object]) -> None:
        async with ledger.transaction() as session:
            connection = await session.connection()
            await connection.execute(sa.insert(table), row)

    account = {"name": "eve", "balance": 1}
    transfer = {"reference": "rent", "payer": "ann", "payee": "bob", "amount": 1}
    for table, row in ((Account, account), (Transfer, transfer)):
        for name in row:
            with pytest.raises(RefusedError, match=rf"(?i)null .*\b{name}\b"):
                await insert(table, row | {name: None})
        await insert(table, row)


# --- Statements


@pytest.mark.asyncio
async def test_a_statement_is_read_page_by_page_newest_first(ledger: Ledger) -> None:
    orders = [pay(amount) for amount in range(1, 6)]
    for order in orders:
        await ledger.transfer(order)
    newest_first = [order.reference for order in reversed(orders)]
    queries: list[str] = []
    sa.event.listen(
        ledger.engine.sync_engine,
        "before_cursor_execute",
        lambda *args: queries.append(args[2]),
    )
    statement = ledger.statement("ann", page_size=2)
    assert (await anext(statement)).reference == newest_first[0]
    assert sum("FROM transfers" in query for query in queries) == 1
    rest = [transfer.reference async for transfer in statement]
    assert rest == newest_first[1:]
    assert sum("FROM transfers" in query for query in queries) == 3


@pytest.mark.asyncio
async def test_the_reader_of_a_statement_holds_no_connection(database_url: str) -> None:
    async with open_ledger(database_url, pool_size=1, timeout=5) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        orders = [pay(1), pay(1), pay(1)]
        for order in orders:
            await ledger.transfer(order)
        seen = []
        async for transfer in ledger.statement("ann", page_size=1):
            # This one needs the only connection, and is not on the statement.
            await ledger.transfer(pay(1))
            seen.append(transfer.reference)
        assert seen == [order.reference for order in reversed(orders)]


@pytest.mark.asyncio
async def test_a_statement_uses_the_indexes(sqlite_url: str) -> None:
    async with open_ledger(sqlite_url) as ledger:
        queries: list[tuple[str, tuple[object, ...]]] = []
        sa.event.listen(
            ledger.engine.sync_engine,
            "before_cursor_execute",
            lambda *args: queries.append((args[2], args[3])),
        )
        assert await references(ledger) == []
        query, values = queries[-1]
        async with ledger.engine.connect() as connection:
            plan = await connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {query}", values
            )
            steps = " ".join(step.detail for step in plan)
    assert "(payer=?" in steps
    assert "(payee=?" in steps


# --- Time limits and connections


@pytest.mark.asyncio
async def test_a_transaction_that_waits_too_long_fails(ledger: Ledger) -> None:
    impatient = Ledger(ledger.engine, timeout=0.05)
    # On SQLite the connection is in use, on PostgreSQL the row is locked.
    async with ledger.transaction() as session:
        await withdraw(session, 1)
        with pytest.raises(UnavailableError, match=r"did not answer within 0\.05 s"):
            await impatient.transfer(pay(1))
    await ledger.transfer(pay(99))


@pytest.mark.asyncio
async def test_there_are_never_more_connections_than_the_pool_has(
    database_url: str,
) -> None:
    in_use = 0
    peak = 0

    def check_out(*_: object) -> None:
        nonlocal in_use, peak
        in_use += 1
        peak = max(peak, in_use)

    def check_in(*_: object) -> None:
        nonlocal in_use
        in_use -= 1

    async with open_ledger(database_url, pool_size=2, timeout=20) as ledger:
        sa.event.listen(ledger.engine.sync_engine, "checkout", check_out)
        sa.event.listen(ledger.engine.sync_engine, "checkin", check_in)
        await ledger.open_accounts({"ann": 20, "bob": 0})
        transfers = [ledger.transfer(pay(1)) for _ in range(40)]
        statements = [references(ledger) for _ in range(20)]
        outcomes = await asyncio.gather(*transfers, *statements, return_exceptions=True)
    assert sum(isinstance(outcome, RefusedError) for outcome in outcomes) == 20
    assert not any(isinstance(outcome, UnavailableError) for outcome in outcomes)
    assert peak == (1 if "sqlite" in database_url else 2)
    assert in_use == 0


@pytest.mark.asyncio
async def test_opening_cancelled_at_any_await_leaves_nothing_open(
    database_url: str, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def open_and_close() -> None:
        async with open_ledger(database_url):
            pass

    await open_and_close()
    assert await cancel_everywhere(open_and_close, sqlite_threads_end) > 5


# --- Opening


@pytest.mark.asyncio
async def test_programs_that_start_at_the_same_moment_share_a_ledger(
    database_url: str,
) -> None:
    async def start(name: str) -> None:
        async with open_ledger(database_url, pool_size=1) as ledger:
            await ledger.open_accounts({name: 1})

    assert await failures(*(start(name) for name in "abcde")) == []
    async with open_ledger(database_url) as ledger:
        assert await ledger.balances() == dict.fromkeys("abcde", 1)


@pytest.fixture
def other_program(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """A connection of another program to the new SQLite file, which it has locked."""
    file = sqlite_url.partition(":///")[2]
    with closing(sqlite3.connect(file, check_same_thread=False)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


@pytest.mark.asyncio
async def test_a_new_file_that_another_program_has_locked_is_waited_for(
    sqlite_url: str, other_program: sqlite3.Connection, mocker: MockerFixture
) -> None:
    real = aiosqlite.Connection.executescript

    async def unlock(self: aiosqlite.Connection, script: str) -> object:
        # The ledger begins to wait for the lock.
        if "busy_timeout" in script:
            asyncio.get_running_loop().call_later(0.05, other_program.rollback)
        return await real(self, script)

    mocker.patch.object(aiosqlite.Connection, "executescript", unlock)
    async with open_ledger(sqlite_url) as ledger:
        assert await ledger.balances() == {}


@pytest.mark.asyncio
async def test_opening_a_locked_file_takes_no_longer_than_the_time_limit(
    sqlite_url: str, other_program: sqlite3.Connection
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(UnavailableError, match=r"did not answer|is locked"):
        await open_ledger(sqlite_url, timeout=1).__aenter__()
    # Not once for each step of opening.
    assert loop.time() - began < 2
    await sqlite_threads_end()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "not a database URL"),
        ("postgresql://ann:secret@host:port/ledger", "its port is not a number"),
        ("postgresql://ann:secret@host/ledger?nonsense=1", "URL: nonsense"),
        ("sqlite://", "a database in memory is lost"),
        ("sqlite:///:memory:", "a database in memory is lost"),
        ("sqlite:////no/such/folder/ledger.db", "/no/such/folder/ledger.db: unable"),
    ],
)
@pytest.mark.asyncio
async def test_a_database_that_cannot_be_opened_is_explained_in_one_line(
    url: str, reason: str
) -> None:
    with pytest.raises(LedgerError, match=r"^[^\n]+$") as caught:
        await open_ledger(url).__aenter__()
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_table_of_another_program_is_explained_in_one_line(
    database_url: str,
) -> None:
    async with open_ledger(database_url) as ledger:
        async with ledger.transaction() as session:
            await session.execute(sa.text("DROP TABLE transfers"))
        with pytest.raises(LedgerError, match=r"^.*transfers.*$") as caught:
            await references(ledger)
    assert "\n" not in str(caught.value)


# --- SQLite


@pytest.mark.asyncio
async def test_a_full_disk_is_explained_and_loses_nothing(sqlite_url: str) -> None:
    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 1000, "bob": 0})
        async with ledger.transaction() as session:
            # The file must not grow.
            await session.execute(sa.text("PRAGMA max_page_count = 1"))
        long = [Order(f"{number:0500}", "ann", "bob", 1) for number in range(20)]
        outcomes = await failures(*(ledger.transfer(order) for order in long))
        assert set(outcomes) == {UnavailableError}
        with pytest.raises(UnavailableError, match="disk is full"):
            await ledger.transfer(long[-1])
        count = len(await references(ledger))
        assert count > 0
        assert await ledger.balances() == {"ann": 1000 - count, "bob": count}


@pytest.mark.asyncio
async def test_a_lock_of_another_program_is_explained(sqlite_url: str) -> None:
    async with open_ledger(sqlite_url) as one, open_ledger(sqlite_url) as other:
        await one.open_accounts({"ann": 100, "bob": 0})
        async with other.transaction() as session:
            await session.execute(sa.text("PRAGMA busy_timeout = 0"))
        async with one.transaction() as session:
            await withdraw(session, 1)
            with pytest.raises(UnavailableError, match="database is locked"):
                await other.transfer(pay(1))
