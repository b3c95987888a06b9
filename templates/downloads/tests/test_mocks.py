"""Mocks for what a real site and a real store do not do on request."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, call, create_autospec

import aiohttp
import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore
from pytest_mock import MockerFixture

from downloads.app import main
from downloads.bucket import (
    BucketStorage,
    call_store,
)
from downloads.downloader import (
    Downloader,
    Result,
    Status,
)
from downloads.url_list import Source

Offer = Callable[..., str]

A = Source("http://example.org/a")
B = Source("http://example.org/b")
C = Source("http://example.org/c")


# 1. A different result for each argument: a function as side_effect receives what the
# method received.
@pytest.mark.asyncio
async def test_each_file_has_its_own_result(
    local: Downloader, mocker: MockerFixture
) -> None:
    error = aiohttp.InvalidURL("c")
    results: dict[str, Status | Exception] = {
        "a": "saved",
        "b": "up to date",
        "c": error,
    }

    def result(_self: Downloader, _source: Source, name: str) -> Status:
        result = results[name]
        if isinstance(result, Exception):
            raise result
        return result

    download = mocker.patch.object(
        Downloader, "download", autospec=True, side_effect=result
    )
    on_result = mocker.stub()
    await local.download_all([A, B, C], on_result)
    assert on_result.call_args_list == [
        call(Result(A, "saved", "a")),
        call(Result(B, "up to date", "b")),
        call(Result(C, "failed", error=error)),
    ]
    assert download.await_args_list == [
        call(local, A, "a"),
        call(local, B, "b"),
        call(local, C, "c"),
    ]


# 2. A list as side_effect: one item for each call. The pauses between the attempts are
# virtual.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_third_attempt_may_succeed(
    local: Downloader, mocker: MockerFixture
) -> None:
    results = [
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ServerDisconnectedError(),
        "saved",
    ]
    attempt = mocker.patch.object(
        Downloader, "_attempt", autospec=True, side_effect=results
    )
    assert await local.download(A, "a") == "saved"
    assert attempt.await_count == 3
    assert 0 < asyncio.get_running_loop().time() < 5


# 3. An unexpected error is a bug: it is not counted as a failed download.
@pytest.mark.asyncio
async def test_a_bug_is_not_a_failed_download(
    local: Downloader, mocker: MockerFixture
) -> None:
    mocker.patch.object(
        Downloader, "download", autospec=True, side_effect=KeyError("a bug")
    )
    with pytest.raises(ExceptionGroup) as caught:
        await local.download_all([A], mocker.stub())
    assert caught.group_contains(KeyError, match="a bug")


# 4. An async side_effect is awaited in the mock's place, so it can wait, count, and see
# its cancellation.
@pytest.mark.asyncio
async def test_a_cancelled_run_cancels_the_downloads_that_run(
    local: Downloader, mocker: MockerFixture
) -> None:
    begun: set[str] = set()
    ended: set[str] = set()
    all_busy = asyncio.Event()

    async def wait(_self: Downloader, _source: Source, name: str) -> Status:
        begun.add(name)
        if len(begun) == 2:
            all_busy.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.add(name)
        return "saved"

    mocker.patch.object(Downloader, "download", autospec=True, side_effect=wait)
    async with asyncio.TaskGroup() as tasks:
        two = replace(local, concurrency=2)
        run = tasks.create_task(two.download_all([A, B, C], mocker.stub()))
        await all_busy.wait()
        run.cancel()
    assert run.cancelled()
    assert begun == ended == {"a", "b"}


# 5. Compiled functions: with autospec, a mock of them checks the arguments too.
@pytest.fixture
def full_store(mocker: MockerFixture) -> MagicMock:
    """A store that has no room left."""
    refused = GenericError("No space left\n\nDebug source: ...")
    return mocker.patch.object(obstore, "put", autospec=True, side_effect=refused)


@pytest.mark.asyncio
async def test_each_file_that_does_not_fit_is_one_line(
    full_store: MagicMock, offer: Offer, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [offer("/a"), offer("/b")]
    assert await main(*urls, to="memory:///") == 1
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == [f"{url}: No space left" for url in urls]
    assert full_store.call_count == 2


# 6. What no test can send: `async with` returns a response that announces a terabyte.
@pytest.mark.asyncio
async def test_a_terabyte_is_uploaded_in_parts_that_s3_accepts(
    mocker: MockerFixture,
) -> None:
    response = create_autospec(aiohttp.ClientResponse, instance=True)
    response.status = 200
    response.headers = {}
    response.content_length = 10**12
    response.content = create_autospec(aiohttp.StreamReader, instance=True)
    response.content.readany.side_effect = aiohttp.ClientPayloadError("cut")
    response.content._read_nowait.return_value = b""
    entered = create_autospec(AbstractAsyncContextManager, instance=True)
    entered.__aenter__.return_value = response  # otherwise it would be another mock
    session = create_autospec(aiohttp.ClientSession, instance=True)
    session.get.return_value = entered
    put = mocker.spy(obstore, "put")

    downloader = Downloader(
        session=session,
        storage=BucketStorage(MemoryStore()),
        attempts=1,
    )
    with pytest.raises(aiohttp.ClientPayloadError):
        await downloader.download(A, "a")
    [request] = session.get.call_args_list
    assert request.kwargs == {"headers": {"Accept-Encoding": "identity"}}
    assert 10**12 / 10_000 <= put.call_args.kwargs["chunk_size"] < 101 * 10**6
    assert put.call_args.kwargs["max_concurrency"] == 1


# 7. A spy lets the real method work and records its calls.
@pytest.mark.asyncio
async def test_a_small_file_is_uploaded_by_one_request(
    local: Downloader, offer: Offer, mocker: MockerFixture
) -> None:
    bucket = BucketStorage(MemoryStore())
    put = mocker.spy(obstore, "put")
    source = Source(offer("/a.bin", bytes(100_000)))
    assert await replace(local, storage=bucket).download(source, "a.bin") == "saved"
    assert put.call_args.kwargs["use_multipart"] is False


# 8. A stub is a callback with nothing behind it.
@pytest.mark.asyncio
async def test_an_upload_that_ends_is_not_undone(mocker: MockerFixture) -> None:
    undo = mocker.stub()
    assert await call_store(lambda: "done", undo) == "done"
    undo.assert_not_called()


@pytest.mark.asyncio
async def test_a_cancelled_upload_is_undone_and_awaited(mocker: MockerFixture) -> None:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    undone: Future[None] = Future()
    ended: list[str] = []

    def upload() -> None:
        loop.call_soon_threadsafe(started.set)
        try:
            undone.result()
        finally:
            ended.append("upload")

    undo = mocker.stub()
    undo.side_effect = lambda: undone.set_exception(OSError("undone"))
    task = asyncio.create_task(call_store(upload, undo))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    undo.assert_called_once_with()
    assert ended == ["upload"]


# 9. What a thread calls can be patched too.
@pytest.mark.asyncio
async def test_a_list_that_cannot_be_read_is_one_line(
    folder: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    error = PermissionError(13, "Permission denied")
    read = mocker.patch.object(Path, "read_text", autospec=True, side_effect=error)
    assert await main(from_file=Path("urls.txt"), to=str(folder)) == 1
    expected = "urls.txt: [Errno 13] Permission denied\n"
    assert capsys.readouterr().err == expected
    read.assert_called_once_with(Path("urls.txt"), encoding="utf-8-sig")
