"""What the ledger promises: on SQLite and on PostgreSQL, by the same tests."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pytest_mock import MockerFixture
from sqlalchemy.ext.asyncio import AsyncConnection

from database.app import (
    ACCOUNTS,
    TRANSFERS,
    DuplicateError,
    Ledger,
    RefusedError,
    Transfer,
    UnavailableError,
    main,
    open_ledger,
)


def pay(amount: int = 1, payer: str = "ann", payee: str = "bob") -> Transfer:
    """Return a transfer with a reference of its own."""
    return Transfer(uuid4().hex, payer, payee, amount)


async def made(ledger: Ledger, account: str = "ann") -> list[Transfer]:
    """Return the whole statement of an account."""
    return [transfer async for transfer in ledger.statement(account)]


async def take(connection: AsyncConnection, amount: int, name: str = "ann") -> None:
    """Do the first half of a transfer."""
    update = sa.text(
        "UPDATE accounts SET balance = balance - :amount WHERE name = :name"
    )
    await connection.execute(update, {"amount": amount, "name": name})


async def failures(*work: Awaitable[object]) -> list[type]:
    """Do all of it at the same time; return the types of what went wrong."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    return [type(outcome) for outcome in outcomes if outcome is not None]


async def closed() -> None:
    """Wait until SQLite's connections, a thread each, have ended."""
    for thread in threading.enumerate():
        if "connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


# The contract: what uses `ledger` or `database_url` runs on both databases.


@pytest.mark.asyncio
async def test_a_transfer_moves_money_and_stands_on_both_statements(
    ledger: Ledger,
) -> None:
    await ledger.transfer(Transfer("rent", "ann", "bob", 70))
    assert await ledger.balances() == {"ann": 30, "bob": 70}
    assert await made(ledger, "ann") == [Transfer("rent", "ann", "bob", 70)]
    assert await made(ledger, "bob") == await made(ledger, "ann")


@pytest.mark.parametrize("_turn", ["first", "second"])
@pytest.mark.asyncio
async def test_no_test_sees_what_another_has_done(ledger: Ledger, _turn: str) -> None:
    await ledger.transfer(Transfer("the same in both", "ann", "bob", 100))
    assert len(await made(ledger)) == 1


@pytest.mark.asyncio
async def test_concurrent_transfers_lose_no_update(ledger: Ledger) -> None:
    assert await failures(*(ledger.transfer(pay(1)) for _ in range(60))) == []
    assert await ledger.balances() == {"ann": 40, "bob": 60}
    assert len(await made(ledger)) == 60


@pytest.mark.asyncio
async def test_transfers_that_cross_do_not_deadlock(ledger: Ledger) -> None:
    await ledger.transfer(pay(50))
    queue = sa.text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
    crossing = list[asyncio.Task[list[type]]]()
    async with asyncio.TaskGroup() as group, ledger.transaction() as connection:
        await take(
            connection, 0
        )  # what Ann has stays locked until both wait for it, in this order
        for waiting, order in enumerate([pay(1), pay(1, "bob", "ann")], 1):
            crossing.append(group.create_task(failures(ledger.transfer(order))))
            while (
                connection.dialect.name != "sqlite"
                and await connection.scalar(queue) < waiting
            ):
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
async def test_programs_that_start_at_the_same_moment_share_a_ledger(
    database_url: str,
) -> None:
    async def start(name: str) -> None:
        async with open_ledger(database_url, pool=1) as ledger:
            await ledger.open_accounts({name: 1})

    assert await failures(*(start(name) for name in "abcde")) == []
    async with open_ledger(database_url) as ledger:
        assert await ledger.balances() == dict.fromkeys("abcde", 1)


@pytest.mark.asyncio
async def test_programs_that_start_at_the_same_moment_open_the_same_accounts_once(
    database_url: str,
) -> None:
    start = partial(main, database_url=database_url, transfers=0)
    assert await asyncio.gather(
        *(start(accounts=number) for number in (20, 30, 20))
    ) == [0, 0, 0]
    async with open_ledger(database_url) as ledger:
        assert sum((await ledger.balances()).values()) == 30 * 100_00


@pytest.mark.asyncio
async def test_accounts_opened_by_two_at_once_in_any_order_do_not_deadlock(
    ledger: Ledger,
) -> None:
    names = [f"{number:03}" for number in range(500)]
    both = [
        ledger.open_accounts(dict.fromkeys(some, 1)) for some in (names, names[::-1])
    ]
    assert await failures(*both) == [RefusedError]
    assert len(await ledger.balances()) == 502


@pytest.mark.asyncio
async def test_a_new_file_that_another_program_has_locked_is_waited_for(
    sqlite_url: str,
) -> None:
    file = sqlite_url.partition(":///")[2]
    with closing(sqlite3.connect(file, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def unlock(*event: object) -> None:
            if "BEGIN IMMEDIATE" in event:  # the ledger has come as far as to wait
                other.rollback()

        sa.event.listen(sa.Engine, "before_cursor_execute", unlock)
        try:
            async with open_ledger(sqlite_url) as ledger:
                assert await ledger.balances() == {}
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", unlock)


@pytest.mark.asyncio
async def test_to_open_a_locked_file_takes_no_longer_than_patience(
    sqlite_url: str,
) -> None:
    with closing(sqlite3.connect(sqlite_url.partition(":///")[2])) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError, match=r"no answer in time|is locked"):
            await open_ledger(sqlite_url, patience=0.3).__aenter__()
        assert (
            asyncio.get_running_loop().time() - began < 0.6
        )  # not once for each step of it


@pytest.mark.asyncio
async def test_no_balance_goes_below_zero(ledger: Ledger) -> None:
    refused = await failures(*(ledger.transfer(pay(30)) for _ in range(10)))
    assert refused == [RefusedError] * 7
    assert await ledger.balances() == {"ann": 10, "bob": 90}
    with pytest.raises(RefusedError, match=r"^ann cannot pay 11$"):
        await ledger.transfer(pay(11))


@pytest.mark.asyncio
async def test_no_balance_exceeds_its_bound_and_the_refusal_names_the_payee(
    ledger: Ledger,
) -> None:
    await ledger.open_accounts({"eve": 10**15 - 4, "too_much": 0})
    with pytest.raises(RefusedError, match=r"^eve cannot take 5$"):
        await ledger.transfer(pay(5, payee="eve"))
    with pytest.raises(RefusedError, match=r"^too_much cannot pay 5$"):
        await ledger.transfer(pay(5, payer="too_much"))
    await ledger.transfer(pay(4, payee="eve"))
    assert await ledger.balances() == {
        "ann": 96,
        "bob": 0,
        "eve": 10**15,
        "too_much": 0,
    }


@pytest.mark.asyncio
async def test_a_duplicate_is_refused_even_at_the_same_moment(ledger: Ledger) -> None:
    order = pay(100)
    assert (
        await failures(*(ledger.transfer(order) for _ in range(8)))
        == [DuplicateError] * 7
    )
    assert await ledger.balances() == {"ann": 0, "bob": 100}
    with pytest.raises(
        DuplicateError, match=order.reference
    ):  # and not: "ann cannot pay"
        await ledger.transfer(order)


@pytest.mark.parametrize("order", [pay(1, payer="eve"), pay(1, payee="eve")])
@pytest.mark.asyncio
async def test_an_unknown_account_is_refused(ledger: Ledger, order: Transfer) -> None:
    with pytest.raises(RefusedError, match=r"no account of .*eve"):
        await ledger.transfer(order)
    assert await ledger.balances() == {"ann": 100, "bob": 0}
    assert await made(ledger) == []


@pytest.mark.asyncio
async def test_accounts_are_opened_all_or_none(ledger: Ledger) -> None:
    for opening in ({"eve": 1, "ann": 1}, {"eve": -1}, {"eve": 10**16}):
        with pytest.raises(RefusedError):
            await ledger.open_accounts(opening)
    await ledger.open_accounts({})
    await ledger.open_accounts({"abe": 7})
    await ledger.open_accounts({"abe": 8, "ann": 9}, missing=True)
    with pytest.raises(RefusedError):
        await ledger.open_accounts({"abe": 8, "eve": -1}, missing=True)
    assert [*(await ledger.balances()).items()] == [
        ("abe", 7),
        ("ann", 100),
        ("bob", 0),
    ]


@pytest.mark.asyncio
async def test_no_value_of_a_row_may_be_missing(ledger: Ledger) -> None:
    async def insert(table: sa.Table, row: dict[str, object]) -> None:
        async with ledger.transaction() as connection:
            await connection.execute(sa.insert(table), row)

    for table, row in (
        (ACCOUNTS, {"name": "eve", "balance": 1}),
        (TRANSFERS, pay()._asdict()),
    ):
        for name in row:
            with pytest.raises(RefusedError, match=rf"(?i)null .*\b{name}\b"):
                await insert(table, row | {name: None})
        await insert(table, row)


@pytest.mark.asyncio
async def test_an_error_in_a_transaction_rolls_it_back(ledger: Ledger) -> None:
    async def fail_half_way() -> None:
        async with ledger.transaction() as connection:
            await take(connection, 100)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await fail_half_way()
    assert await ledger.balances() == {"ann": 100, "bob": 0}


@pytest.mark.asyncio
async def test_a_transfer_cancelled_at_any_await_is_made_whole_or_not_at_all(
    ledger: Ledger, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def whole() -> None:
        count = len(await made(ledger))
        assert await ledger.balances() == {"ann": 100 - count, "bob": count}

    assert await cancel_everywhere(lambda: ledger.transfer(pay(1)), whole) > 5


# Cancelled while they connect, aiosqlite leaves it to Python to close the file, and
# asyncpg (over
# TCP, asking for TLS) loses an error of its own.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.loses_errors
@pytest.mark.asyncio
async def test_opening_cancelled_at_any_await_leaves_nothing_open(
    database_url: str, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def open_and_close() -> None:
        async with open_ledger(database_url):
            pass

    await open_and_close()
    assert await cancel_everywhere(open_and_close, closed) > 5


@pytest.mark.asyncio
async def test_the_pool_is_never_exhausted(database_url: str) -> None:
    in_use = [0]
    async with open_ledger(database_url, pool=2, patience=20) as ledger:
        for happening, change in ("checkout", 1), ("checkin", -1):
            count = partial(
                lambda change, *_: in_use.append(in_use[-1] + change), change
            )
            sa.event.listen(ledger.engine.sync_engine, happening, count)
        await ledger.open_accounts({"ann": 20, "bob": 0})
        work = [ledger.transfer(pay(1)) for _ in range(40)] + [
            made(ledger) for _ in range(20)
        ]
        outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert sum(isinstance(outcome, RefusedError) for outcome in outcomes) == 20
    assert not any(isinstance(outcome, UnavailableError) for outcome in outcomes)
    assert max(in_use) == (1 if "sqlite" in database_url else 2)
    assert in_use[-1] == 0


@pytest.mark.asyncio
async def test_who_waits_too_long_is_told_so(ledger: Ledger) -> None:
    impatient = Ledger(ledger.engine, patience=0.05)
    async with (
        ledger.transaction() as connection
    ):  # SQLite: the connection; PostgreSQL: the row
        await take(connection, 1)
        with pytest.raises(UnavailableError, match="no answer in time"):
            await impatient.transfer(pay(1))
    await ledger.transfer(pay(99))


@pytest.mark.asyncio
async def test_a_statement_streams_page_by_page_newest_first(ledger: Ledger) -> None:
    orders = [pay(amount) for amount in range(1, 6)]
    for order in orders:
        await ledger.transfer(order)
    queries: list[str] = []
    sa.event.listen(
        ledger.engine.sync_engine,
        "before_cursor_execute",
        lambda *args: queries.append(args[2]),
    )
    statement = ledger.statement("ann", page=2)
    assert await anext(statement) == orders[-1]
    assert sum("FROM transfers" in query for query in queries) == 1
    assert [transfer async for transfer in statement] == orders[-2::-1]
    assert sum("FROM transfers" in query for query in queries) == 3


@pytest.mark.asyncio
async def test_the_reader_of_a_statement_holds_no_connection(database_url: str) -> None:
    async with open_ledger(database_url, pool=1, patience=5) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        orders = [pay(1), pay(1), pay(1)]
        for order in orders:
            await ledger.transfer(order)
        seen = []
        async for transfer in ledger.statement("ann", page=1):
            await ledger.transfer(
                pay(1)
            )  # with the only connection, and not seen below
            seen.append(transfer)
        assert seen == orders[::-1]


@pytest.mark.asyncio
async def test_a_plain_url_gets_an_async_driver(database_url: str) -> None:
    plain = database_url.replace("+aiosqlite", "").replace("+asyncpg", "")
    assert plain != database_url
    async with open_ledger(plain) as ledger:
        assert await ledger.balances() == {}


@pytest.mark.asyncio
async def test_main_prints_balances_whose_sum_stays(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = partial(main, database_url=database_url, transfers=25, concurrency=3)
    for accounts, total in ((3, "300.00"), (5, "500.00"), (2, "500.00")):
        assert await run(accounts=accounts) == 0
        *balances, last = capsys.readouterr().out.splitlines()
        assert last.split() == ["total", total]
        amounts = [float(line.split()[-1]) for line in balances]
        assert f"{sum(amounts):.2f}" == total
        assert min(amounts) >= 0


@pytest.mark.asyncio
async def test_no_more_workers_start_than_there_are_transfers(
    sqlite_url: str, mocker: MockerFixture
) -> None:
    started = mocker.spy(asyncio.TaskGroup, "create_task")
    assert await main(database_url=sqlite_url, transfers=3, concurrency=1000) == 0
    assert started.call_count == 3


# PostgreSQL


@pytest.mark.asyncio
async def test_a_url_may_say_sslmode_as_libpq_does(postgres_url: str) -> None:
    url = sa.make_url(postgres_url)
    plain = url.update_query_dict({"sslmode": "disable"}).render_as_string(
        hide_password=False
    )
    async with open_ledger(plain) as ledger:
        assert await ledger.balances() == {}


@pytest.mark.asyncio
async def test_a_server_killed_in_mid_transaction_is_a_clear_error_and_loses_nothing(
    postgres_url: str, downtime: Callable[[], AbstractAsyncContextManager[None]]
) -> None:
    async with open_ledger(postgres_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        await ledger.transfer(pay(10))

        async def lose_the_server_half_way() -> None:
            async with ledger.transaction() as connection:
                await take(connection, 50)
                async with downtime():
                    with pytest.raises(UnavailableError, match=r"^.+$"):
                        await ledger.balances()
                    await take(connection, -50, "bob")

        with pytest.raises(UnavailableError, match=r"^.+$"):  # one line
            await lose_the_server_half_way()
        assert await ledger.balances() == {"ann": 90, "bob": 10}
        async with downtime():
            pass  # while nobody wants anything of it
        await ledger.transfer(pay(10))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_statement_is_as_long_as_the_history(history: Ledger) -> None:
    numbers = [int(transfer.reference) for transfer in await made(history)]
    assert numbers == list(reversed(range(30)))


@pytest.mark.parametrize("page", [0, 1, 7, 15, 16])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_statement_is_the_same_in_pages_of_any_size(
    history: Ledger, page: int
) -> None:
    numbers = [
        int(transfer.reference)
        async for transfer in history.statement("bob", page=page)
    ]
    assert numbers == list(range(28, -1, -2))


def test_an_engine_works_only_in_the_loop_that_opened_it(postgres_url: str) -> None:
    with asyncio.Runner() as right, asyncio.Runner() as wrong:
        opened = open_ledger(postgres_url)
        ledger = right.run(opened.__aenter__())
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            wrong.run(ledger.balances())
        right.run(opened.__aexit__(None, None, None))


# SQLite


@pytest.mark.asyncio
async def test_what_a_program_killed_in_mid_transaction_leaves_is_a_consistent_ledger(
    tmp_path: Path,
) -> None:
    async with open_ledger(f"sqlite:///{tmp_path.as_posix()}/ledger.db") as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        await ledger.transfer(pay(10))
        log = tmp_path / "ledger.db-wal"
        size = log.stat().st_size
        async with ledger.transaction() as connection:
            await connection.exec_driver_sql(
                "PRAGMA cache_size = 1"
            )  # writes before it must
            await take(connection, 50)
            await connection.execute(
                sa.insert(ACCOUNTS),
                [{"name": str(n), "balance": 1} for n in range(2000)],
            )
            assert log.stat().st_size > size
            left = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-left")
    async with open_ledger(f"sqlite:///{left.as_posix()}/ledger.db") as ledger:
        assert await ledger.balances() == {"ann": 90, "bob": 10}


@pytest.mark.asyncio
async def test_every_sqlite_connection_has_the_settings(sqlite_url: str) -> None:
    async with open_ledger(sqlite_url, patience=7) as ledger:
        for _ in range(2):
            async with ledger.transaction() as connection:
                for setting, value in {
                    "journal_mode": "wal",
                    "synchronous": 1,
                    "foreign_keys": 1,
                    "busy_timeout": 7000,
                }.items():
                    answer = await connection.exec_driver_sql(f"PRAGMA {setting}")
                    assert answer.scalar() == value
            await ledger.engine.dispose()  # the next connection is a new one


@pytest.mark.asyncio
async def test_a_statement_is_found_by_index_and_reads_no_transfers_of_others(
    sqlite_url: str,
) -> None:
    async with open_ledger(sqlite_url) as ledger:
        queries: list[tuple[str, tuple[object, ...]]] = []
        sa.event.listen(
            ledger.engine.sync_engine,
            "before_cursor_execute",
            lambda *args: queries.append((args[2], args[3])),
        )
        assert await made(ledger) == []
        query, values = queries[-1]
        async with ledger.transaction() as connection:
            plan = await connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {query}", values
            )
            steps = " ".join(step.detail for step in plan)
    assert "(payer=?" in steps
    assert "(payee=?" in steps


@pytest.mark.asyncio
async def test_a_full_disk_is_a_clear_error_and_loses_nothing(sqlite_url: str) -> None:
    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 1000, "bob": 0})
        async with ledger.transaction() as connection:
            await connection.exec_driver_sql(
                "PRAGMA max_page_count = 1"
            )  # no more than now
        long = [
            Transfer(f"{n:0500}", "ann", "bob", 1) for n in range(20)
        ]  # it is full in a moment
        assert set(await failures(*map(ledger.transfer, long))) == {UnavailableError}
        with pytest.raises(UnavailableError, match="disk is full"):
            await ledger.transfer(long[-1])
        count = len(await made(ledger))
        assert count > 0
        assert await ledger.balances() == {"ann": 1000 - count, "bob": count}


@pytest.mark.asyncio
async def test_a_lock_of_another_program_is_a_clear_error(sqlite_url: str) -> None:
    async with open_ledger(sqlite_url) as one, open_ledger(sqlite_url) as other:
        await one.open_accounts({"ann": 100, "bob": 0})
        async with other.transaction() as connection:
            await connection.exec_driver_sql(
                "PRAGMA busy_timeout = 0"
            )  # else it would wait
        async with one.transaction() as connection:
            await take(connection, 1)
            with pytest.raises(UnavailableError, match="database is locked"):
                await other.transfer(pay(1))


@pytest.mark.asyncio
async def test_the_engine_is_disposed_of_even_after_an_error(sqlite_url: str) -> None:
    async def fail() -> None:
        async with open_ledger(sqlite_url):
            assert any(
                "connection_worker" in thread.name for thread in threading.enumerate()
            )
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await fail()
    await closed()


# No database


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "Could not parse"),
        ("nosuch://host/ledger", "nosuch"),
        ("postgresql://ann:secret@host:port/ledger", "port"),
        ("postgresql://ann:secret@host/ledger?port=x", "port"),
        ("postgresql://ann:secret@host/ledger?nonsense=1", "argument 'nonsense'"),
        ("sqlite+pysqlite:///ledger.db", "requires an async driver"),
        (
            "sqlite://",
            "StaticPool",
        ),  # in memory: with a cancelled connection all would be lost
    ],
)
@pytest.mark.asyncio
async def test_what_is_no_url_of_a_database_is_a_clear_error(
    url: str, told: str
) -> None:
    with pytest.raises(
        UnavailableError, match=r"^cannot use this database URL: .+$"
    ) as error:
        await open_ledger(url).__aenter__()
    assert told in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("bounds", [{"pool": 0}, {"patience": 0}, {"pool": -1}])
@pytest.mark.asyncio
async def test_bounds_must_be_positive(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="limits must be positive"):
        await open_ledger("sqlite:///ledger.db", **bounds).__aenter__()


@pytest.mark.parametrize("order", [pay(0), pay(-1), pay(10**30), pay(1, "ann", "ann")])
@pytest.mark.asyncio
async def test_what_is_no_transfer_is_a_mistake_of_the_caller(
    order: Transfer, sqlite_url: str
) -> None:
    async with open_ledger(sqlite_url) as ledger:
        with pytest.raises(ValueError, match="not a transfer"):
            await ledger.transfer(order)


@pytest.mark.asyncio
async def test_main_tells_a_failure_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await main(database_url="sqlite:////no/such/folder/ledger.db") == 1
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "cannot use this database URL: unable to open database file\n",
    )
