"""Mocks for what a real site and a real store do not do on request."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, call, create_autospec

import aiohttp
import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import LocalStore, ObjectStore
from pytest_mock import MockerFixture
from rich.progress import Progress

from downloads.app import PART, Downloader, finish, main

Offer = Callable[..., str]
A, B, C = (f"http://example.org/{name}" for name in "abc")


# 1. An answer for each argument: a function as side_effect gets what the method got.
@pytest.mark.asyncio
async def test_each_file_has_its_own_fate(
    downloader: Downloader, mocker: MockerFixture
) -> None:
    fates: dict[str, bool | Exception] = {
        "a": True,
        "b": False,
        "c": aiohttp.InvalidURL(C),
    }

    def fate(_self: Downloader, _url: str, name: str, _look: bool) -> bool:
        if isinstance(fate := fates[name], Exception):
            raise fate
        return fate

    save = mocker.patch.object(Downloader, "save", autospec=True, side_effect=fate)
    states = await downloader.save_all([A, B, C], mocker.stub())
    assert states == {"saved": 1, "present": 1, "failed": 1}
    assert save.await_args_list == [
        call(downloader, url, url[-1], False) for url in (A, B, C)
    ]


# 2. A list as side_effect: one item for each call. The pauses between the tries are
# virtual.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_third_try_may_be_the_good_one(
    downloader: Downloader, mocker: MockerFixture
) -> None:
    fates = [aiohttp.ClientPayloadError("cut"), aiohttp.ServerDisconnectedError(), True]
    save = mocker.patch.object(Downloader, "save", autospec=True, side_effect=fates)
    # Where it overwrites, it does not ask the store, whose threads know no virtual
    # clock.
    downloader = replace(downloader, overwrite=True)
    assert (await downloader.save_all([A], mocker.stub()))["saved"] == 1
    assert save.await_count == 3
    assert 0 < asyncio.get_running_loop().time() < 5


# 3. An error that nobody expects is a bug: it is not counted, it comes out.
@pytest.mark.asyncio
async def test_a_bug_is_not_taken_for_a_failed_download(
    downloader: Downloader, mocker: MockerFixture
) -> None:
    mocker.patch.object(
        Downloader, "save", autospec=True, side_effect=KeyError("a bug")
    )
    with pytest.raises(ExceptionGroup) as caught:
        await downloader.save_all([A], mocker.stub())
    assert caught.group_contains(KeyError, match="a bug")


# 4. An async side_effect is awaited in the mock's place, so it can hang, count, and see
# its end.
@pytest.mark.asyncio
async def test_a_cancelled_run_cancels_what_it_has_begun(
    downloader: Downloader, mocker: MockerFixture
) -> None:
    begun, ended, all_busy = set[str](), set[str](), asyncio.Event()

    async def hang(_self: Downloader, _url: str, name: str, _look: bool) -> bool:
        begun.add(name)
        if len(begun) == 2:
            all_busy.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.add(name)
        return True

    mocker.patch.object(Downloader, "save", autospec=True, side_effect=hang)
    async with asyncio.TaskGroup() as tasks:
        two = replace(downloader, concurrency=2)
        run = tasks.create_task(two.save_all([A, B, C], mocker.stub()))
        await all_busy.wait()
        run.cancel()
    assert run.cancelled()
    assert begun == ended == {"a", "b"}


# 5. Compiled functions: obstore's return a future and are no coroutine functions, so
# autospec makes
# plain mocks of them. Those check the arguments, and what they return must be
# awaitable.
@pytest.fixture
def full_disk(mocker: MockerFixture) -> Iterator[MagicMock]:
    """A store that has no room, as obstore tells it."""

    def put(*_args: object, **_options: object) -> asyncio.Future[None]:
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(
            GenericError("No space left on device (os error 28)\n\nDebug source:")
        )
        return refused

    return mocker.patch.object(obstore, "put_async", autospec=True, side_effect=put)


@pytest.mark.asyncio
async def test_each_file_that_does_not_fit_is_told_in_one_line(
    full_disk: MagicMock, offer: Offer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [offer("/a"), offer("/b")]
    assert await main(*urls, to=str(folder)) == 1
    told = capsys.readouterr().err.splitlines()
    assert sorted(told) == [
        f"{url}: No space left on device (os error 28)" for url in urls
    ]
    assert full_disk.call_count == 2


# 6. What no test can send: `async with` hands out a response, `async for` a terabyte.
@pytest.mark.asyncio
async def test_a_terabyte_goes_in_parts_that_s3_takes(
    store: ObjectStore, bars: Progress, mocker: MockerFixture
) -> None:
    response = create_autospec(aiohttp.ClientResponse, instance=True)
    response.status, response.headers, response.content_length = 200, {}, 10**12
    response.content = create_autospec(aiohttp.StreamReader, instance=True)
    response.content.iter_any.return_value.__aiter__.return_value = [b"some", b"thing"]
    inside = create_autospec(AbstractAsyncContextManager, instance=True)
    inside.__aenter__.return_value = response  # forgotten, it would be yet another mock
    session = create_autospec(aiohttp.ClientSession, instance=True)
    session.get.return_value = inside
    put = mocker.spy(obstore, "put_async")
    assert await Downloader(session, store, bars).save(A, "a")
    session.get.assert_called_once_with(A, headers={"Accept-Encoding": "identity"})
    part = put.call_args.kwargs["chunk_size"]
    assert (
        part == 2**20
        if isinstance(store, LocalStore)
        else 10**12 / 10_000 <= part < 21 * PART
    )
    assert (
        put.call_args.kwargs["max_concurrency"] == 1
    )  # or there were as many parts in memory
    assert bytes(await (await store.get_async("a")).bytes_async()) == b"something"


# 7. A spy lets the real method work and remembers how.
@pytest.mark.asyncio
async def test_a_bar_moves_by_as_many_bytes_as_go_to_the_store(
    downloader: Downloader, bars: Progress, offer: Offer, mocker: MockerFixture
) -> None:
    add, advance = mocker.spy(bars, "add_task"), mocker.spy(bars, "advance")
    put = mocker.spy(obstore, "put_async")
    assert await downloader.save(offer("/a.bin", bytes(100_000)), "a.bin")
    assert put.call_args.args[2] == bytes(100_000)  # small, so in one request
    add.assert_called_once_with("a.bin", total=100_000)
    assert sum(each.args[1] for each in advance.call_args_list) == 100_000
    assert bars.tasks == []


# 8. A stub is a callback with nothing behind it.
@pytest.mark.asyncio
async def test_what_ends_by_itself_is_not_undone(mocker: MockerFixture) -> None:
    undo = mocker.stub()
    assert await finish(asyncio.sleep(0, result="done"), undo) == "done"
    undo.assert_not_called()


@pytest.mark.asyncio
async def test_what_is_cancelled_is_undone_and_awaited(mocker: MockerFixture) -> None:
    work = asyncio.get_running_loop().create_future()
    undo = mocker.stub()
    undo.side_effect = lambda: work.set_exception(OSError("undone"))
    task = asyncio.ensure_future(finish(work, undo))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    undo.assert_called_once_with()
    assert work.done()


# 9. What a thread calls can be patched too: the file is read by asyncio.to_thread.
@pytest.mark.asyncio
async def test_a_list_that_is_no_text_is_told_in_one_line(
    folder: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    read = mocker.patch.object(Path, "read_text", autospec=True, side_effect=error)
    assert await main(from_file=Path("urls.bin"), to=str(folder)) == 1
    assert capsys.readouterr().err.startswith(
        "urls.bin: 'utf-8' codec can't decode byte 0xff"
    )
    read.assert_called_once_with(Path("urls.bin"), "utf-8-sig")
