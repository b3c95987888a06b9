"""AsyncMock and pytest-mock at a database: what to replace, what to break, what to
leave real.
"""

import asyncio
import sys
from itertools import count
from types import SimpleNamespace
from unittest.mock import ANY, MagicMock, call, create_autospec
from uuid import UUID

import pytest
from pytest_mock import MockerFixture
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from database.app import (
    DuplicateError,
    Ledger,
    RefusedError,
    Transfer,
    UnavailableError,
    main,
    open_ledger,
)

RENT = Transfer("rent", "ann", "bob", 70)
APP = sys.modules[
    main.__module__
]  # patch a name where it is used, not where it is made


async def pay_surely(ledger: Ledger, order: Transfer, attempts: int = 3) -> bool:
    """Make a transfer over a bad line; to try again is safe, as its reference counts
    once.
    """
    for _ in range(attempts):
        try:
            await ledger.transfer(order)
        except UnavailableError:
            continue
        except DuplicateError:
            pass  # it was made; only the answer had been lost
        return True
    return False


async def biggest(ledger: Ledger, account: str) -> Transfer:
    """Return the biggest transfer on a statement."""
    return max(
        [transfer async for transfer in ledger.statement(account)],
        key=lambda t: t.amount,
    )


@pytest.fixture
def fake() -> MagicMock:
    """A ledger with no database: it knows a ledger's methods and their arguments, no
    others.
    """
    mock: MagicMock = create_autospec(Ledger, instance=True)
    return mock


@pytest.fixture
def opened(fake: MagicMock, mocker: MockerFixture) -> MagicMock:
    """What `main` enters in place of a real ledger's context; it gets the fake one from
    there.
    """
    context: MagicMock = mocker.patch.object(
        APP, "open_ledger", autospec=True
    ).return_value
    context.__aenter__.return_value = fake
    context.__aexit__.return_value = (
        None  # of a mock something true would come: errors swallowed
    )
    fake.balances.return_value = {"account 0001": 100_00, "account 0002": 100_00}
    return context


@pytest.mark.asyncio
async def test_a_list_of_side_effects_plays_an_outage_step_by_step(
    fake: MagicMock,
) -> None:
    fake.transfer.side_effect = [
        UnavailableError("down"),
        DuplicateError("made before"),
    ]
    assert await pay_surely(fake, RENT)
    assert fake.transfer.await_args_list == [call(RENT), call(RENT)]


@pytest.mark.asyncio
async def test_an_error_as_side_effect_is_raised_every_time(fake: MagicMock) -> None:
    fake.transfer.side_effect = UnavailableError("down")
    assert not await pay_surely(fake, RENT, attempts=4)
    assert fake.transfer.await_count == 4


@pytest.mark.asyncio
async def test_an_async_generator_is_given_its_items_through_aiter(
    fake: MagicMock,
) -> None:
    fake.statement.return_value.__aiter__.return_value = [
        Transfer("tea", "ann", "eve", 2),
        RENT,
    ]
    assert await biggest(fake, "ann") == RENT
    fake.statement.assert_called_once_with(
        "ann"
    )  # called, not awaited: it is no coroutine


@pytest.mark.asyncio
async def test_a_wrong_name_or_argument_fails_as_with_the_real_one(
    fake: MagicMock,
) -> None:
    with pytest.raises(AttributeError, match="transfers"):
        await fake.transfers(RENT)
    with pytest.raises(TypeError, match="unexpected keyword argument 'pages'"):
        fake.statement("ann", pages=3)


@pytest.mark.asyncio
async def test_a_context_manager_hands_out_what_its_aenter_returns() -> None:
    engine = create_autospec(AsyncEngine, instance=True)
    connection = create_autospec(AsyncConnection, instance=True)
    engine.begin.return_value.__aenter__.return_value = connection
    # Rows are data, and data need no mock: MagicMock(name="ann") would not even have
    # that name.
    connection.execute.return_value = [SimpleNamespace(name="ann", balance=3)]
    assert await Ledger(engine).balances() == {"ann": 3}
    connection.execute.assert_awaited_once_with(ANY)


@pytest.mark.asyncio
async def test_aexit_is_awaited_with_the_error_and_must_not_swallow_it() -> None:
    engine = create_autospec(AsyncEngine, instance=True)
    transaction = engine.begin.return_value
    transaction.__aexit__.return_value = False
    with pytest.raises(ZeroDivisionError):
        async with Ledger(engine).transaction():
            _ = 1 / 0
    transaction.__aexit__.assert_awaited_once_with(ZeroDivisionError, ANY, ANY)


@pytest.mark.parametrize("broken", [1, 2])
@pytest.mark.asyncio
async def test_a_fault_injected_at_any_statement_of_a_real_transfer_rolls_it_back(
    sqlite_url: str, mocker: MockerFixture, broken: int
) -> None:
    execute, number = AsyncConnection.execute, count(1)

    async def execute_or_fail(*args: object, **kwargs: object) -> object:
        if next(number) == broken:
            raise OSError("the line is cut")
        return await execute(*args, **kwargs)  # type: ignore[call-overload]

    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        patch = mocker.patch.object(
            AsyncConnection, "execute", autospec=True, side_effect=execute_or_fail
        )
        with pytest.raises(UnavailableError, match=r"^the line is cut$"):
            await ledger.transfer(RENT)
        assert patch.await_count == broken
        mocker.stop(patch)
        assert await ledger.balances() == {"ann": 100, "bob": 0}
        await ledger.transfer(RENT)


@pytest.mark.asyncio
async def test_a_spy_watches_the_real_thing_at_work(
    sqlite_url: str, mocker: MockerFixture
) -> None:
    spy = mocker.spy(Ledger, "transfer")
    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 70, "bob": 0})
        assert await pay_surely(ledger, RENT)
        assert spy.spy_exception is None
        assert await pay_surely(ledger, RENT)
        assert isinstance(spy.spy_exception, DuplicateError)
    assert spy.await_args_list == [call(ledger, RENT)] * 2


@pytest.mark.asyncio
async def test_a_source_of_chance_is_replaced_by_a_constant(
    sqlite_url: str, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    mocker.patch.object(APP, "uuid4", autospec=True, return_value=UUID(int=7))
    caplog.set_level("INFO")
    assert await main(database_url=sqlite_url, transfers=5) == 0
    assert caplog.messages[-1] == "1 of 5 transfers made"  # all have the same reference


@pytest.mark.asyncio
async def test_a_side_effect_counts_how_many_run_at_a_time(
    fake: MagicMock, opened: MagicMock
) -> None:
    running: set[str] = set()
    peak = 0

    async def transfer(order: Transfer) -> None:
        nonlocal peak
        running.add(order.reference)
        peak = max(peak, len(running))
        await asyncio.sleep(0)
        running.remove(order.reference)

    fake.transfer.side_effect = transfer
    assert await main(accounts=2, transfers=10, concurrency=3) == 0
    assert (peak, fake.transfer.await_count) == (3, 10)
    APP.open_ledger.assert_called_once_with(ANY, pool=3)  # a connection for each


@pytest.mark.asyncio
async def test_the_parent_remembers_the_order_of_all_calls(
    fake: MagicMock, opened: MagicMock
) -> None:
    assert await main(accounts=3, transfers=2) == 0
    names = [name for name, _, _ in fake.method_calls]
    assert names == ["open_accounts", "transfer", "transfer", "balances"]
    opening = {f"account 000{number}": 100_00 for number in (1, 2, 3)}
    fake.open_accounts.assert_awaited_once_with(opening, missing=True)


@pytest.mark.asyncio
async def test_a_hanging_mock_shows_that_cancellation_closes_the_ledger(
    fake: MagicMock, opened: MagicMock
) -> None:
    busy = asyncio.Event()

    async def hang(_: Transfer) -> None:
        busy.set()
        await asyncio.Event().wait()

    fake.transfer.side_effect = hang
    async with asyncio.TaskGroup() as group:
        program = group.create_task(main(transfers=5))
        await busy.wait()
        opened.__aexit__.assert_not_awaited()
        program.cancel()
    opened.__aexit__.assert_awaited_once_with(asyncio.CancelledError, ANY, ANY)


@pytest.mark.asyncio
async def test_an_error_of_the_workers_is_told_once_and_in_one_line(
    fake: MagicMock, opened: MagicMock, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.transfer.side_effect = [
        RefusedError("no money"),
        UnavailableError("the server has gone"),
    ]
    assert await main(transfers=5, concurrency=1) == 1
    assert capsys.readouterr() == ("", "the server has gone\n")
    fake.open_accounts.side_effect = RefusedError("no account for less than 200.00")
    assert await main() == 1
    assert capsys.readouterr() == ("", "no account for less than 200.00\n")
