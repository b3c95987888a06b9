"""AsyncMock and pytest-mock by example: stages, a database and an API as mocks.

Mocks show which calls were made, and when. They can also do what a real server does not
do on demand.
"""

import asyncio
import threading
from pathlib import Path
from unittest.mock import ANY, AsyncMock, MagicMock, Mock, call, create_autospec

import pytest
from pytest_mock import MockerFixture
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from etl import app, load
from etl.app import main
from etl.files import FileSource
from etl.load import Loader
from etl.pipeline import Batch, Reject, pipeline
from etl.sales import SALES, Sale

FIRST = Batch()
MORE = Batch("more", 1)
LAST = Batch("", 2)
TEA = Sale.model_validate({"id": 1, "item": "tea", "day": "2026-05-31", "cents": 5})
BATCH = Batch("more", 2, rows=[TEA], rejects=[Reject(2, "bad", "a reason")])


async def stage(batch: Batch) -> Batch:
    """A stage. The mocks of stages have its signature."""
    return batch


# 1. `create_autospec` of an async function returns an AsyncMock. A call with wrong
# arguments fails.
@pytest.mark.asyncio
async def test_each_stage_receives_what_the_one_before_it_returned() -> None:
    read = create_autospec(stage)
    save = create_autospec(stage)
    read.side_effect = [MORE, LAST]  # returned one after the other
    save.side_effect = lambda batch: batch  # computed from the arguments
    await pipeline(FIRST, read, save, buffer=1)
    assert read.await_args_list == [call(FIRST), call(MORE)]
    assert save.await_args_list == [call(MORE), call(LAST)]


# 2. An exception in `side_effect` is raised. A mock can also call a function of yours:
# this one hangs until it is cancelled.
@pytest.mark.asyncio
async def test_the_first_error_stops_the_other_stages() -> None:
    stopped = asyncio.Event()

    async def hang(_batch: Batch) -> Batch:
        try:
            return await asyncio.Future[Batch]()
        finally:
            stopped.set()

    read = create_autospec(stage, side_effect=[MORE, MORE, OSError("disk full")])
    save = create_autospec(stage, side_effect=hang)
    with pytest.raises(ExceptionGroup) as caught:
        await pipeline(FIRST, read, save, buffer=4)
    assert [str(error) for error in caught.value.exceptions] == ["disk full"]
    assert stopped.is_set()
    save.assert_awaited_once_with(MORE)


# 3. A call is not yet an await. Like a real coroutine, the coroutine of an AsyncMock
# does nothing until it is awaited.
@pytest.mark.asyncio
async def test_a_call_of_a_mock_is_not_yet_an_await() -> None:
    save = AsyncMock(spec=stage, return_value=LAST)
    coroutine = save(MORE)
    save.assert_called_once_with(MORE)
    save.assert_not_awaited()
    assert await coroutine is LAST
    save.assert_awaited_once_with(MORE)


# 4. `async with` suppresses an exception if __aexit__ returns a true value. A mock is
# true, so a mock of __aexit__ must return False explicitly.
@pytest.fixture
def connection() -> MagicMock:
    """A mock of a connection."""
    connection: MagicMock = create_autospec(AsyncConnection, instance=True)
    connection.dialect = sqlite.dialect()
    transaction = create_autospec(AsyncTransaction, instance=True)
    transaction.__aexit__.return_value = False
    connection.begin.return_value = transaction
    return connection


def new_loader(connection: AsyncConnection) -> Loader:
    return Loader(connection, "source", Sale, SALES, is_resumable=True)


@pytest.mark.asyncio
async def test_an_error_leaves_the_transaction_and_stops_the_batch(
    connection: MagicMock,
) -> None:
    connection.exec_driver_sql.side_effect = [None, OSError("disk full")]
    with pytest.raises(OSError, match="disk full"):
        await new_loader(connection).save(BATCH)
    assert connection.exec_driver_sql.await_count == 2
    connection.begin().__aexit__.assert_awaited_once_with(OSError, ANY, ANY)


# 5. To check the order of calls to several mocks, attach them to one mock. It records
# all calls.
@pytest.mark.asyncio
async def test_rows_rejects_and_position_are_saved_within_one_transaction(
    connection: MagicMock,
) -> None:
    recorder = Mock(spec=["enter", "execute", "leave"])
    transaction = connection.begin.return_value
    recorder.attach_mock(transaction.__aenter__, "enter")
    recorder.attach_mock(connection.exec_driver_sql, "execute")
    recorder.attach_mock(transaction.__aexit__, "leave")
    await new_loader(connection).save(BATCH)
    assert recorder.mock_calls == [
        call.enter(),
        call.execute(ANY, [(1, "TEA", "2026-05-31", 5)]),
        call.execute(ANY, [("source", 2, ANY)]),
        call.execute(ANY, [("source", "more", 2)]),
        call.leave(None, None, None),
    ]
    texts = [args[0] for args, _ in connection.exec_driver_sql.await_args_list]
    assert [text.split()[2] for text in texts] == ["sales", "rejects", "cursors"]


# 6. With autospec, a patched function has the signature of the real one. Here, the
# database cannot be opened.
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("connection refused"), "connection refused"),
        (TimeoutError(), "timed out"),
    ],
)
@pytest.mark.asyncio
async def test_a_database_that_is_down_is_explained(
    csv_file: str,
    sqlite_url: str,
    rejects: Path,
    mocker: MockerFixture,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    reason: str,
) -> None:
    create = mocker.patch.object(load, "create_tables", autospec=True)
    create.side_effect = error
    assert await main(csv_file, database_url=sqlite_url, rejects=rejects) == 1
    assert capsys.readouterr().err == f"{sqlite_url}: {reason}\n"


# 7. A spy on a class records the calls of all its instances, also of those that the
# program creates itself. The first argument is `self`.
@pytest.mark.asyncio
async def test_each_batch_is_saved_once(
    csv_file: str, sqlite_url: str, rejects: Path, mocker: MockerFixture
) -> None:
    save = mocker.spy(Loader, "save")
    options = {"database_url": sqlite_url, "rejects": rejects}
    assert await main(csv_file, **options, batch=3) == 0  # type: ignore[arg-type]
    assert [args[1].line for args, _ in save.await_args_list] == [4, 7, 9, 0]


# 8. A side effect may call the real function and record more: here, the thread.
@pytest.mark.parametrize(
    ("place", "name"), [(FileSource, "_read"), (app, "validate")], ids=["read", "check"]
)
@pytest.mark.asyncio
async def test_functions_that_would_block_the_loop_run_in_a_thread(
    csv_file: str,
    sqlite_url: str,
    rejects: Path,
    mocker: MockerFixture,
    place: object,
    name: str,
) -> None:
    real = getattr(place, name)
    threads: set[threading.Thread] = set()

    def noted(*args: object) -> object:
        threads.add(threading.current_thread())
        return real(*args)

    mocker.patch.object(place, name, autospec=True, side_effect=noted)
    assert await main(csv_file, database_url=sqlite_url, rejects=rejects) == 0
    assert threads
    assert threading.main_thread() not in threads


# 9. A spy calls the real function. It records positional and keyword arguments.
@pytest.mark.asyncio
async def test_the_pipeline_gets_its_buffer(
    csv_file: str, sqlite_url: str, rejects: Path, mocker: MockerFixture
) -> None:
    spy = mocker.spy(app, "pipeline")
    assert await main(csv_file, database_url=sqlite_url, rejects=rejects, buffer=7) == 0
    assert spy.await_args.kwargs == {"buffer": 7}


# 10. A stub is a callback that accepts anything; `wraps` puts a mock around a real
# function.
@pytest.mark.asyncio
async def test_a_stub_can_be_used_as_a_stage(mocker: MockerFixture) -> None:
    read: AsyncMock = mocker.async_stub("read")
    read.return_value = LAST
    save = AsyncMock(wraps=stage)
    await pipeline(FIRST, read, save, buffer=1)
    read.assert_awaited_once_with(FIRST)
    save.assert_awaited_once_with(LAST)
