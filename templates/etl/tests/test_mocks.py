"""AsyncMock and pytest-mock by example: stages, a database and an API that are not
there.

A mock is for "who was called, and when", and for what a real server will not do when
asked to.
"""

import asyncio
import sys
import threading
from collections import deque
from pathlib import Path
from unittest.mock import ANY, AsyncMock, MagicMock, Mock, call, create_autospec

import pytest
from aiohttp import ClientPayloadError, ClientResponse, ClientSession, web
from pytest_mock import MockerFixture
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from etl.app import (
    PATIENCE,
    Batch,
    main,
    pipeline,
    read_page,
    save,
)

APP = sys.modules[main.__module__]  # patch a name where it is used
FIRST, MORE, LAST = Batch(), Batch("more", 1), Batch("", 2)
BATCH = Batch("more", 2, rows=[(1, "TEA")], rejects=[("source", 2, "a reject")])


async def stage(batch: Batch) -> Batch:
    """Have the signature of a stage: a spec for mocks."""
    return batch


# 1. Specs of callables: an `async def` becomes an AsyncMock, which fails on a wrong
# call.
@pytest.mark.asyncio
async def test_each_stage_gets_what_the_one_before_it_returned() -> None:
    read, load = create_autospec(stage), create_autospec(stage)
    read.side_effect = [MORE, LAST]  # returned one after the other
    load.side_effect = lambda batch: batch  # worked out from the arguments
    await pipeline(FIRST, read, load)
    assert read.await_args_list == [call(FIRST), call(MORE)]
    assert load.await_args_list == [call(MORE), call(LAST)]


# 2. An error in the list is raised; a stage that hangs shows that it is told to stop.
@pytest.mark.asyncio
async def test_the_first_error_stops_the_other_stages() -> None:
    stopped = asyncio.Event()

    async def hang(_batch: Batch) -> Batch:
        try:
            return await asyncio.Future[Batch]()
        finally:
            stopped.set()

    read = create_autospec(stage, side_effect=[MORE, MORE, OSError("no more disk")])
    load = create_autospec(stage, side_effect=hang)
    with pytest.raises(ExceptionGroup) as caught:
        await pipeline(FIRST, read, load)
    assert [str(error) for error in caught.value.exceptions] == ["no more disk"]
    assert stopped.is_set()
    load.assert_awaited_once_with(MORE)


# 3. Called is not awaited: the coroutine of an AsyncMock does nothing until then, as a
# real one.
@pytest.mark.asyncio
async def test_a_called_mock_is_not_yet_an_awaited_one() -> None:
    load = AsyncMock(spec=stage, return_value=LAST)
    coroutine = load(MORE)
    load.assert_called_once_with(MORE)
    load.assert_not_awaited()
    assert await coroutine is LAST
    load.assert_awaited_once_with(MORE)


# 4. `async with`: what __aexit__ returns decides if an error is swallowed. A mock's is
# true!
@pytest.fixture
def connection() -> MagicMock:
    """A connection to no database."""
    connection: MagicMock = create_autospec(AsyncConnection, instance=True)
    connection.dialect = sqlite.dialect()
    transaction = create_autospec(AsyncTransaction, instance=True)
    transaction.__aexit__.return_value = False
    connection.begin.return_value = transaction
    return connection


@pytest.mark.asyncio
async def test_an_error_leaves_the_transaction_and_stops_the_batch(
    connection: MagicMock,
) -> None:
    connection.exec_driver_sql.side_effect = [None, OSError("no more disk")]
    with pytest.raises(OSError, match="no more disk"):
        await save(connection, "source", BATCH)
    assert connection.exec_driver_sql.await_count == 2
    connection.begin().__aexit__.assert_awaited_once_with(OSError, ANY, ANY)


# 5. The order of calls to several mocks: attach them to one that writes them all down.
@pytest.mark.asyncio
async def test_rows_rejects_and_place_are_saved_within_one_transaction(
    connection: MagicMock,
) -> None:
    book = Mock(spec=["enter", "execute", "leave"])
    transaction = connection.begin.return_value
    book.attach_mock(transaction.__aenter__, "enter")
    book.attach_mock(connection.exec_driver_sql, "execute")
    book.attach_mock(transaction.__aexit__, "leave")
    await save(connection, "source", BATCH)
    assert book.mock_calls == [
        call.enter(),
        call.execute(ANY, BATCH.rows),
        call.execute(ANY, BATCH.rejects),
        call.execute(ANY, [("source", "more", 2)]),
        call.leave(None, None, None),
    ]
    texts = [args[0] for args, _ in connection.exec_driver_sql.await_args_list]
    assert [text.split()[2] for text in texts] == ["sales", "rejects", "cursors"]


# 6. Patch what the code calls, with autospec: here time, so that no pause is waited
# for.
@pytest.mark.asyncio
async def test_the_pauses_between_tries_double(mocker: MockerFixture) -> None:
    sleep = mocker.patch.object(asyncio, "sleep", autospec=True)
    response = create_autospec(ClientResponse, instance=True)
    response.read.side_effect = [ClientPayloadError("cut")] * 3 + [b"[1, 2]"]
    response.links = {}
    response.__aenter__.return_value = (
        response  # else the body sees another mock, silently
    )
    response.__aexit__.return_value = False
    session = create_autospec(ClientSession, instance=True)
    session.get.return_value = response
    assert await read_page(session, "http://api", FIRST) == Batch(
        "", 2, [(1, 1), (2, 2)]
    )
    assert sleep.await_args_list == [call(2), call(4), call(8)]
    assert session.get.call_args_list == [call("http://api", raise_for_status=True)] * 4


# 7. A spy calls the real thing and writes it down, for async functions what they
# returned too.
@pytest.mark.asyncio
async def test_a_spy_sees_that_a_retry_asks_for_the_same_page(
    session: ClientSession,
    api_url: str,
    script: deque[web.Response | str],
    mocker: MockerFixture,
) -> None:
    script.append(web.Response(status=503, headers={"Retry-After": "0"}))
    sleep = mocker.spy(asyncio, "sleep")
    get = mocker.spy(session, "get")
    await read_page(session, api_url, Batch(f"{api_url}?page=3", 6))
    assert get.call_args_list == [call(f"{api_url}?page=3", raise_for_status=True)] * 2
    sleep.assert_awaited_once_with(0)


# 8. A side effect may call the real thing too, and note what else it sees: here the
# thread.
@pytest.mark.parametrize("name", ["read_file", "check"])
@pytest.mark.asyncio
async def test_what_would_hold_up_the_loop_runs_in_a_thread(
    csv_file: str, sqlite_url: str, rejects: Path, mocker: MockerFixture, name: str
) -> None:
    real, threads = getattr(APP, name), set[threading.Thread]()

    def noted(*args: object) -> object:
        threads.add(threading.current_thread())
        return real(*args)

    mocker.patch.object(APP, name, autospec=True, side_effect=noted)
    assert await main(csv_file, database_url=sqlite_url, rejects=rejects) == 0
    assert threads
    assert threading.main_thread() not in threads


# 9. A spy on a class sees the calls of an instance that is made deep within, and `self`
# first.
@pytest.mark.asyncio
async def test_sqlite_has_the_setting_with_which_a_reader_holds_up_no_load(
    csv_file: str, sqlite_url: str, rejects: Path, mocker: MockerFixture
) -> None:
    execute = mocker.spy(AsyncConnection, "exec_driver_sql")
    assert await main(csv_file, database_url=sqlite_url, rejects=rejects) == 0
    assert execute.await_args_list[0] == call(ANY, "PRAGMA journal_mode=WAL")


# 10. A class can be wrapped too: what is made of it is real, how it was made is written
# down.
@pytest.mark.asyncio
async def test_the_session_has_patience_and_the_pipeline_its_buffer(
    csv_file: str, sqlite_url: str, rejects: Path, mocker: MockerFixture
) -> None:
    made = mocker.patch.object(APP, "ClientSession", wraps=ClientSession)
    spy = mocker.spy(APP, "pipeline")
    assert await main(csv_file, database_url=sqlite_url, rejects=rejects, buffer=7) == 0
    made.assert_called_once_with(timeout=PATIENCE)
    assert spy.await_args.kwargs == {"buffer": 7}


# 11. A stub is a callback that accepts anything; `wraps` adds one to a real function.
@pytest.mark.asyncio
async def test_a_stub_stands_for_a_stage(mocker: MockerFixture) -> None:
    read: AsyncMock = mocker.async_stub("read")
    read.return_value = LAST
    load = AsyncMock(wraps=stage)
    await pipeline(FIRST, read, load)
    read.assert_awaited_once_with(FIRST)
    load.assert_awaited_once_with(LAST)
