"""What only a PostgreSQL server can show: outages, pgbouncer, event loops."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import sqlalchemy as sa
from pytest_mock import MockerFixture

from database.app import main
from database.errors import (
    UnavailableError,
    translated_errors,
)
from database.ledger import Ledger, Order, open_ledger
from database.models import Account, Transfer

Downtime = Callable[[], AbstractAsyncContextManager[None]]


async def count_transfers(ledger: Ledger) -> int:
    async with ledger.transaction() as session:
        return await session.scalar(sa.select(sa.func.count(Transfer.id))) or 0


def with_options(url: str, options: str) -> str:
    """Return the URL with more options."""
    separator = "&" if "?" in url else "?"
    return f"{url}{separator}{options}"


# --- Outages


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_run_continues_after_a_restart_and_makes_every_transfer_once(
    postgres_url: str,
    downtime: Downtime,
    mocker: MockerFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    real = Ledger.transfer
    calls = 0

    async def transfer(self: Ledger, order: Order) -> None:
        nonlocal calls
        calls += 1
        if calls == 100:
            async with downtime():
                pass
        await real(self, order)

    mocker.patch.object(Ledger, "transfer", autospec=True, side_effect=transfer)
    assert await main(database_url=postgres_url, transfers=300) == 0

    async with open_ledger(postgres_url) as ledger:
        made = await count_transfers(ledger)
        assert sum((await ledger.balances()).values()) == 10 * 100_00
    assert f"{made} transfers made, {300 - made} refused" in caplog.messages
    assert calls > 300
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_server_that_does_not_come_back_ends_the_run_in_one_line(
    postgres_url: str,
    downtime: Downtime,
    mocker: MockerFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Ledger.transfer
    calls = 0
    ended = asyncio.Event()
    down = asyncio.Event()

    async def stop_the_server() -> None:
        async with downtime():
            down.set()
            await ended.wait()

    async def transfer(self: Ledger, order: Order) -> None:
        nonlocal calls
        calls += 1
        if calls == 100:
            stopping.append(asyncio.create_task(stop_the_server()))
            await down.wait()
        await real(self, order)

    stopping: list[asyncio.Task[None]] = []
    mocker.patch.object(Ledger, "transfer", autospec=True, side_effect=transfer)
    status = await main(database_url=postgres_url, transfers=300, reconnect_timeout=0)
    ended.set()
    await asyncio.gather(*stopping)
    assert status == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_server_killed_during_a_transaction_loses_nothing(
    postgres_url: str, downtime: Downtime
) -> None:
    async with open_ledger(postgres_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        await ledger.transfer(Order("tea", "ann", "bob", 10))

        async def lose_the_server_half_way() -> None:
            async with ledger.transaction() as session:
                await session.execute(sa.update(Account).values(balance=50))
                async with downtime():
                    with pytest.raises(UnavailableError, match=r"^.+$"):
                        await ledger.balances()
                    await session.execute(sa.update(Account).values(balance=60))

        with pytest.raises(UnavailableError, match=r"^.+$"):
            await lose_the_server_half_way()
        assert await ledger.balances() == {"ann": 90, "bob": 10}


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_restart_between_two_transfers_is_not_noticed(
    postgres_url: str, downtime: Downtime
) -> None:
    async with open_ledger(postgres_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        async with downtime():
            pass
        await ledger.transfer(Order("tea", "ann", "bob", 10))


# --- URLs


@pytest.mark.parametrize(
    "option",
    [
        "sslmode=disable",
        "sslmode=prefer&channel_binding=prefer",
        "connect_timeout=5&application_name=ledger",
        "options=-c%20statement_timeout%3D5000&target_session_attrs=read-write",
        "statement_cache_size=0",
        "prepared_statement_cache_size=0",
    ],
)
@pytest.mark.asyncio
async def test_options_that_providers_print_are_accepted(
    postgres_url: str, option: str
) -> None:
    async with open_ledger(with_options(postgres_url, option)) as ledger:
        assert await ledger.balances() == {}


@pytest.mark.asyncio
async def test_options_reach_the_server(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgres://")
    options = "application_name=my%20ledger&options=-c%20statement_timeout%3D5000"
    async with open_ledger(with_options(url, options)) as ledger:
        async with ledger.transaction() as session:
            name = await session.scalar(sa.text("SHOW application_name"))
            limit = await session.scalar(sa.text("SHOW statement_timeout"))
    assert (name, limit) == ("my ledger", "5s")


@pytest.mark.parametrize("option", ["pgbouncer=true", "statement_cache_size=0"])
@pytest.mark.asyncio
async def test_pgbouncer_in_transaction_mode_works(
    pgbouncer_url: str, option: str
) -> None:
    async with open_ledger(f"{pgbouncer_url}&{option}", pool_size=10) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                order = Order(f"{number}", "ann", "bob", 1)
                group.create_task(ledger.transfer(order))
        assert await ledger.balances() == {"ann": 40, "bob": 60}
        statement = ledger.statement("bob", page_size=7)
        assert len([transfer async for transfer in statement]) == 60


@pytest.mark.asyncio
async def test_the_typical_error_behind_pgbouncer_names_the_option() -> None:
    cause = Exception('prepared statement "__asyncpg_stmt_7__" does not exist\nHINT:')
    with pytest.raises(UnavailableError, match=r"exist; .*add pgbouncer=true"):
        async with translated_errors(1):
            raise sa.exc.DBAPIError(None, None, cause)


# --- A long history, which all tests of this module share


@pytest.mark.asyncio(loop_scope="module")
async def test_a_statement_is_as_long_as_the_history(history: Ledger) -> None:
    statement = history.statement("ann")
    numbers = [int(transfer.reference) async for transfer in statement]
    assert numbers == list(reversed(range(30)))


@pytest.mark.parametrize("page_size", [1, 7, 15, 16])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_statement_is_the_same_in_pages_of_any_size(
    history: Ledger, page_size: int
) -> None:
    statement = history.statement("bob", page_size=page_size)
    numbers = [int(transfer.reference) async for transfer in statement]
    assert numbers == list(range(28, -1, -2))


# The deliberate error leaves a future whose error no code reads.
@pytest.mark.loses_errors
def test_an_engine_works_only_in_the_loop_that_opened_it(postgres_url: str) -> None:
    with asyncio.Runner() as right, asyncio.Runner() as wrong:
        opened = open_ledger(postgres_url)
        ledger = right.run(opened.__aenter__())
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            wrong.run(ledger.balances())
        right.run(opened.__aexit__(None, None, None))
