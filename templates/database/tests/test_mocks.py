"""AsyncMock and pytest-mock by example: what to replace, and what to keep real."""

import asyncio
from types import SimpleNamespace
from unittest.mock import ANY, MagicMock, call, create_autospec

import pytest
from pytest_mock import MockerFixture
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
)

from database import app
from database.app import main
from database.errors import (
    DuplicateError,
    RefusedError,
    UnavailableError,
)
from database.ledger import Ledger, Order, open_ledger
from database.models import Transfer

RENT = Order("rent", "ann", "bob", 70)


async def pay_with_retries(ledger: Ledger, order: Order, attempts: int = 3) -> bool:
    """Make a transfer over a bad connection. Repeating is safe: see `Order`."""
    for _ in range(attempts):
        try:
            await ledger.transfer(order)
        except UnavailableError:
            continue
        except DuplicateError:
            # It was made before, and only the answer was lost.
            return True
        return True
    return False


async def largest_amount(ledger: Ledger, account: str) -> int:
    """Return the largest amount on a statement."""
    return max([transfer.amount async for transfer in ledger.statement(account)])


@pytest.fixture
def fake() -> MagicMock:
    """A ledger without a database. It has the methods and arguments of a real one."""
    mock: MagicMock = create_autospec(Ledger, instance=True)
    return mock


@pytest.fixture
def opened(fake: MagicMock, mocker: MockerFixture) -> MagicMock:
    """The context manager that gives `main` the fake ledger instead of a real one.

    A name is replaced where it is used, in app.py, not where it is defined.
    """
    open_fake = mocker.patch.object(app, "open_ledger", autospec=True)
    context: MagicMock = open_fake.return_value
    context.__aenter__.return_value = fake
    # A mock would return something true, and that would swallow the errors.
    context.__aexit__.return_value = None
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
    assert await pay_with_retries(fake, RENT)
    assert fake.transfer.await_args_list == [call(RENT), call(RENT)]


@pytest.mark.asyncio
async def test_an_error_as_side_effect_is_raised_every_time(fake: MagicMock) -> None:
    fake.transfer.side_effect = UnavailableError("down")
    assert not await pay_with_retries(fake, RENT, attempts=4)
    assert fake.transfer.await_count == 4


@pytest.mark.asyncio
async def test_an_async_generator_is_given_its_items_through_aiter(
    fake: MagicMock,
) -> None:
    fake.statement.return_value.__aiter__.return_value = [
        Transfer(reference="tea", payer="ann", payee="eve", amount=2),
        Transfer(reference="rent", payer="ann", payee="bob", amount=70),
    ]
    assert await largest_amount(fake, "ann") == 70
    # It is called, but not awaited: an async generator is no coroutine.
    fake.statement.assert_called_once_with("ann")


@pytest.mark.asyncio
async def test_a_wrong_name_or_argument_fails_as_with_the_real_ledger(
    fake: MagicMock,
) -> None:
    with pytest.raises(AttributeError, match="transfers"):
        await fake.transfers(RENT)
    with pytest.raises(TypeError, match="unexpected keyword argument 'pages'"):
        fake.statement("ann", pages=3)


@pytest.fixture
def transaction(mocker: MockerFixture) -> MagicMock:
    """The context manager of every transaction, without a database."""
    begin = mocker.patch.object(async_sessionmaker, "begin", autospec=True)
    context: MagicMock = begin.return_value
    context.__aenter__.return_value = create_autospec(AsyncSession, instance=True)
    context.__aexit__.return_value = False
    return context


@pytest.mark.asyncio
async def test_a_context_manager_returns_what_its_aenter_returns(
    transaction: MagicMock,
) -> None:
    session = transaction.__aenter__.return_value
    # Rows are data, and data need no mock. MagicMock(name="ann") has no such name.
    session.execute.return_value = [SimpleNamespace(name="ann", balance=3)]
    ledger = Ledger(create_autospec(AsyncEngine, instance=True))
    assert await ledger.balances() == {"ann": 3}
    session.execute.assert_awaited_once_with(ANY)


@pytest.mark.asyncio
async def test_aexit_is_awaited_with_the_error(transaction: MagicMock) -> None:
    ledger = Ledger(create_autospec(AsyncEngine, instance=True))
    with pytest.raises(ZeroDivisionError):
        async with ledger.transaction():
            raise ZeroDivisionError
    transaction.__aexit__.assert_awaited_once_with(ZeroDivisionError, ANY, ANY)


@pytest.mark.parametrize("broken", [1, 2, 3])
@pytest.mark.asyncio
async def test_a_fault_in_any_statement_of_a_real_transfer_rolls_it_back(
    sqlite_url: str, mocker: MockerFixture, broken: int
) -> None:
    real = AsyncConnection.execute

    async def execute_or_fail(*args: object, **kwargs: object) -> object:
        if patch.await_count == broken:
            raise OSError("the connection was cut")
        return await real(*args, **kwargs)  # type: ignore[call-overload]

    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 100, "bob": 0})
        patch = mocker.patch.object(
            AsyncConnection, "execute", autospec=True, side_effect=execute_or_fail
        )
        with pytest.raises(UnavailableError, match=r"the connection was cut$"):
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
        assert await pay_with_retries(ledger, RENT)
        assert spy.spy_exception is None
        assert await pay_with_retries(ledger, RENT)
        assert isinstance(spy.spy_exception, DuplicateError)
    assert spy.await_args_list == [call(ledger, RENT)] * 2


@pytest.mark.asyncio
async def test_randomness_is_replaced_by_a_constant(
    fake: MagicMock, opened: MagicMock, mocker: MockerFixture
) -> None:
    mocker.patch("random.randint", autospec=True, return_value=7)
    mocker.patch("random.sample", autospec=True, return_value=["ann", "bob"])
    assert await main(transfers=1) == 0
    fake.transfer.assert_awaited_once_with(Order(ANY, "ann", "bob", 7))


@pytest.mark.asyncio
async def test_a_side_effect_counts_how_many_run_at_a_time(
    fake: MagicMock, opened: MagicMock
) -> None:
    running: set[str] = set()
    peak = 0

    async def transfer(order: Order) -> None:
        nonlocal peak
        running.add(order.reference)
        peak = max(peak, len(running))
        await asyncio.sleep(0)
        running.remove(order.reference)

    fake.transfer.side_effect = transfer
    assert await main(accounts=2, transfers=10, concurrency=3) == 0
    assert (peak, fake.transfer.await_count) == (3, 10)
    # Each worker can have a connection.
    app.open_ledger.assert_called_once_with(ANY, pool_size=3, timeout=ANY)  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_the_parent_remembers_the_order_of_all_calls(
    fake: MagicMock, opened: MagicMock
) -> None:
    assert await main(accounts=3, transfers=2) == 0
    names = [name for name, _, _ in fake.method_calls]
    assert names == ["open_missing_accounts", "transfer", "transfer", "balances"]
    opening = {f"account 000{number}": 100_00 for number in (1, 2, 3)}
    fake.open_missing_accounts.assert_awaited_once_with(opening)


@pytest.mark.asyncio
async def test_a_hanging_mock_shows_that_cancellation_closes_the_ledger(
    fake: MagicMock, opened: MagicMock
) -> None:
    busy = asyncio.Event()

    async def hang(_: Order) -> None:
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
async def test_an_error_of_a_worker_is_printed_in_one_line(
    fake: MagicMock, opened: MagicMock, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.transfer.side_effect = [
        RefusedError("no money"),
        UnavailableError("the connection was lost"),
    ]
    assert await main(transfers=5, concurrency=1, reconnect_timeout=0) == 1
    assert capsys.readouterr() == ("", "the connection was lost\n")
    fake.open_missing_accounts.side_effect = RefusedError(
        "no account for less than 200.00"
    )
    assert await main() == 1
    assert capsys.readouterr() == ("", "no account for less than 200.00\n")
