"""What is promised for each file, tested with a site that fails in many ways."""

import asyncio
import gzip
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from downloads.bucket import (
    BodyReader,
    BucketStorage,
)
from downloads.downloader import Downloader, Result
from downloads.responses import (
    ChecksumError,
    IncompleteError,
)
from downloads.storage import (
    FolderStorage,
    PartFile,
    Storage,
)
from downloads.url_list import Source

Offer = Callable[..., str]
BIG = 3 * 2**20 + 1  # bytes; too large to be written by one call


async def content(storage: Storage) -> dict[str, bytes]:
    """Return all finished files, by name."""
    if isinstance(storage, FolderStorage):
        return await asyncio.to_thread(files_in, storage.folder)
    assert isinstance(storage, BucketStorage)
    names = [file["path"] for file in await storage.store.list().collect_async()]
    return {
        name: bytes(await (await storage.store.get_async(name)).bytes_async())
        for name in names
    }


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def parts_in(folder: Path) -> list[str]:
    return os.listdir(folder / ".downloads" / "parts")


class Results(list[Result]):
    """Collects results."""

    def statuses(self) -> list[str]:
        return [result.status for result in self]


async def download(
    downloader: Downloader, *urls: str, sha256: str | None = None
) -> Results:
    """Download URLs, and return the results."""
    results = Results()
    sources = [Source(url, sha256) for url in urls]
    await downloader.download_all(sources, results.append)
    return results


# --- Whole or not at all


@pytest.mark.parametrize("size", [0, 1, 100_000, BIG])
@pytest.mark.asyncio
async def test_a_file_arrives_as_it_is(
    downloader: Downloader, offer: Offer, size: int
) -> None:
    body = os.urandom(size)
    results = await download(downloader, offer("/a.bin", body))
    assert results == [Result(results[0].source, "saved", "a.bin")]
    assert await content(downloader.storage) == {"a.bin": body}


@pytest.mark.parametrize("body", [b"", b"text", bytes(BIG)])
@pytest.mark.asyncio
async def test_a_file_of_unknown_size_arrives_too(
    downloader: Downloader, offer: Offer, body: bytes
) -> None:
    await download(downloader, offer("/a.bin", body, "chunked"))
    assert await content(downloader.storage) == {"a.bin": body}


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt"])
@pytest.mark.asyncio
async def test_a_compressed_body_is_stored_as_sent(
    downloader: Downloader,
    offer: Offer,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    body = gzip.compress(b"text" * 1000)
    url = offer(f"/{name}", body, encoding="gzip", etag='"1"')
    assert (await download(downloader, url)).statuses() == ["saved"]
    assert await content(downloader.storage) == {name: body}
    assert (await download(downloader, url)).statuses() == ["up to date"]
    assert f"{name} is stored as sent, with encoding gzip" in caplog.text


@pytest.mark.parametrize("fault", ["cut", "long"])
@pytest.mark.parametrize("size", [4, BIG])
@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("older", [{}, {"a.bin": b"older"}])
@pytest.mark.asyncio
async def test_an_incomplete_file_leaves_what_was_there(
    local: Downloader,
    folder: Path,
    offer: Offer,
    older: dict[str, bytes],
    encoding: str | None,
    size: int,
    fault: str,
) -> None:
    for name, body in older.items():
        await asyncio.to_thread((folder / name).write_bytes, body)
    url = offer("/a.bin", bytes(size), fault, encoding=encoding)
    [result] = await download(replace(local, attempts=1), url)
    assert isinstance(result.error, aiohttp.ClientPayloadError)
    assert await content(local.storage) == older
    assert await asyncio.to_thread(parts_in, folder) == []  # it could not be resumed


@pytest.mark.asyncio
async def test_a_file_appears_only_when_it_is_complete(
    downloader: Downloader, site: Any
) -> None:
    url = site.offer("/a.bin", bytes(BIG), "stall")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(download(downloader, url))
        await site.busy.wait()
        assert await content(downloader.storage) == {}
        site.gate.set()
    assert await content(downloader.storage) == {"a.bin": bytes(BIG)}


@pytest.mark.asyncio
async def test_a_cancelled_download_leaves_the_older_file_or_the_new_one(
    local: Downloader,
    folder: Path,
    offer: Offer,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    url = offer("/a.bin", bytes(BIG), etag='"1"')
    await asyncio.to_thread((folder / "a.bin").write_bytes, b"older")

    async def check() -> None:
        assert await content(local.storage) in [
            {"a.bin": b"older"},
            {"a.bin": bytes(BIG)},
        ]

    # With an open connection, a task of the site would be left.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        local = replace(local, session=session)
        awaits = await cancel_everywhere(
            lambda: local.download(Source(url), "a.bin"), check
        )
    assert awaits > 2
    assert await content(local.storage) == {"a.bin": bytes(BIG)}


# --- Resuming


@pytest.mark.parametrize(
    "validator", [{"etag": '"1"'}, {"last_modified": "Mon, 30 Nov 2026 00:00:00 GMT"}]
)
@pytest.mark.asyncio
async def test_a_cut_download_is_resumed(
    local: Downloader, site: Any, validator: dict[str, str]
) -> None:
    body = os.urandom(BIG)
    url = site.offer("/a.bin", body, "cut", **validator)
    assert (await download(local, url)).statuses() == ["saved"]
    assert await content(local.storage) == {"a.bin": body}
    first, second = site.requests
    assert "Range" not in first
    assert second["Range"] == f"bytes={BIG // 2}-"
    assert second["If-Range"] in validator.values()


@pytest.mark.asyncio
async def test_a_cancelled_download_is_resumed_by_a_later_run(
    local: Downloader,
    folder: Path,
    open_folder: Callable[[Path], FolderStorage],
    site: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = os.urandom(BIG)
    url = site.offer("/a.bin", body, "stall", etag='"1"')
    loop = asyncio.get_running_loop()
    written = asyncio.Event()
    write = PartFile.write

    def write_and_notify(part: PartFile, data: bytes) -> None:
        write(part, data)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(PartFile, "write", write_and_notify)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(download(local, url))
        await written.wait()
        task.cancel()
    assert await content(local.storage) == {}

    later = await asyncio.to_thread(open_folder, folder)
    await download(replace(local, storage=later), url)
    assert await content(later) == {"a.bin": body}
    assert "Range" in site.requests[-1]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_large_file_is_completed_even_if_every_response_is_cut(
    local: Downloader, site: Any
) -> None:
    body = os.urandom(BIG)
    url = site.offer("/a.bin", body, *["cut"] * 15, etag='"1"')
    results = await download(replace(local, attempts=2), url)
    assert results.statuses() == ["saved"]
    assert await content(local.storage) == {"a.bin": body}
    assert site.count["/a.bin"] == 16


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_without_ranges_the_file_is_sent_again(
    downloader: Downloader, site: Any
) -> None:
    body = os.urandom(BIG)
    url = site.offer("/a.bin", body, "cut", etag='"1"', ranges=False)
    assert (await download(downloader, url)).statuses() == ["saved"]
    assert await content(downloader.storage) == {"a.bin": body}


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_without_progress_the_number_of_attempts_is_limited(
    local: Downloader, site: Any
) -> None:
    url = site.offer("/a.bin", bytes(BIG), *["cut"] * 99, etag='"1"', ranges=False)
    results = await download(replace(local, attempts=3), url)
    assert results.statuses() == ["failed"]
    assert site.count["/a.bin"] == 6  # the first three attempts brought something new


@pytest.mark.parametrize("body", [b"b" * BIG, b"small"])
@pytest.mark.asyncio
async def test_a_file_that_has_changed_starts_again(
    local: Downloader, site: Any, body: bytes
) -> None:
    url = site.offer("/a.bin", b"a" * BIG, *["cut"] * 9, etag='"1"', ranges=False)
    assert (await download(replace(local, attempts=1), url)).statuses() == ["failed"]
    site.offer("/a.bin", body, etag='"2"')
    assert (await download(local, url)).statuses() == ["saved"]
    assert site.requests[-1]["If-Range"] == '"1"'
    assert await content(local.storage) == {"a.bin": body}


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_file_that_has_shrunk_with_the_same_etag_starts_again(
    local: Downloader, site: Any
) -> None:
    url = site.offer("/a.bin", bytes(BIG), *["cut"] * 9, etag='"1"', ranges=False)
    assert (await download(replace(local, attempts=1), url)).statuses() == ["failed"]
    site.offer("/a.bin", b"small", etag='"1"')  # answers 416
    assert (await download(local, url)).statuses() == ["saved"]
    assert await content(local.storage) == {"a.bin": b"small"}


@pytest.mark.parametrize(
    "wrong", ["bytes 0-9/10", f"bytes 1-{BIG - 1}/{BIG}", "bytes 5-6/7", "none"]
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_wrong_range_is_not_used(
    local: Downloader, site: Any, wrong: str
) -> None:
    body = os.urandom(BIG)
    url = site.offer("/a.bin", body, "cut", etag='"1"', content_range=wrong)
    assert (await download(local, url)).statuses() == ["saved"]
    assert await content(local.storage) == {"a.bin": body}
    assert "Range" not in site.requests[-1]


# --- Files that are up to date


@pytest.mark.parametrize("how", [{"etag": '"1"'}, {"last_modified": "Mon"}, {}])
@pytest.mark.asyncio
async def test_a_second_run_downloads_only_what_is_missing(
    downloader: Downloader, site: Any, how: dict[str, str]
) -> None:
    a, b = site.offer("/a", **how), site.offer("/b", **how)
    assert (await download(downloader, a)).statuses() == ["saved"]
    statuses = (await download(downloader, a, b)).statuses()
    assert sorted(statuses) == ["saved", "up to date"]
    assert (await download(downloader, a, b)).statuses() == ["up to date", "up to date"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": '"1"'}, {"etag": '"2"'}),
        ({"last_modified": "Mon"}, {"last_modified": "Tue"}),
        ({"etag": '"1"'}, {}),
        ({}, {"etag": '"1"'}),
    ],
)
@pytest.mark.asyncio
async def test_another_version_of_the_same_size_is_downloaded(
    downloader: Downloader, site: Any, before: dict[str, str], after: dict[str, str]
) -> None:
    await download(downloader, site.offer("/a", b"old!", **before))
    url = site.offer("/a", b"new!", **after)
    results = await download(downloader, url)
    assert results.statuses() == ["saved"]
    assert await content(downloader.storage) == {"a": b"new!"}


@pytest.mark.asyncio
async def test_a_file_that_is_up_to_date_is_not_sent_again(
    downloader: Downloader, site: Any
) -> None:
    url = site.offer("/a.bin", bytes(BIG), etag='"1"')
    await download(downloader, url)
    await download(downloader, url)
    assert site.requests[1]["If-None-Match"] == '"1"'


@pytest.mark.asyncio
async def test_a_file_of_the_same_name_from_another_url_is_replaced(
    downloader: Downloader, site: Any
) -> None:
    await download(downloader, site.offer("/x/a", b"x", etag='"1"'))
    await download(downloader, site.offer("/y/a", b"y", etag='"1"'))
    assert await content(downloader.storage) == {"a": b"y"}


@pytest.mark.asyncio
async def test_a_file_of_unknown_origin_is_replaced(
    downloader: Downloader, folder: Path, offer: Offer
) -> None:
    if isinstance(downloader.storage, FolderStorage):
        await asyncio.to_thread((folder / "a").write_bytes, b"old!")
    await download(downloader, offer("/a", b"new!"))
    assert await content(downloader.storage) == {"a": b"new!"}


@pytest.mark.asyncio
async def test_overwrite_downloads_a_file_that_is_up_to_date(
    downloader: Downloader, site: Any
) -> None:
    url = site.offer("/a", b"old!", etag='"1"')
    await download(downloader, url)
    site.offer("/a", b"new!", etag='"1"')
    results = await download(replace(downloader, overwrite=True), url)
    assert results.statuses() == ["saved"]
    assert await content(downloader.storage) == {"a": b"new!"}


# --- Checksums


@pytest.mark.parametrize("size", [4, BIG])
@pytest.mark.asyncio
async def test_a_file_with_the_right_checksum_is_saved(
    downloader: Downloader, site: Any, size: int
) -> None:
    body = os.urandom(size)
    sha256 = hashlib.sha256(body).hexdigest()
    url = site.offer("/a", body, "cut", etag='"1"')
    assert (await download(downloader, url, sha256=sha256)).statuses() == ["saved"]
    assert (await download(downloader, url, sha256=sha256)).statuses() == ["up to date"]
    # A checksum that was not verified before is verified now.
    other = "0" * 64
    assert (await download(downloader, url, sha256=other)).statuses() == ["failed"]
    assert await content(downloader.storage) == {"a": body}


@pytest.mark.parametrize("size", [4, BIG])
@pytest.mark.parametrize("faults", [[], ["cut"]])
@pytest.mark.asyncio
async def test_a_file_with_another_checksum_is_not_saved(
    downloader: Downloader, site: Any, folder: Path, size: int, faults: list[str]
) -> None:
    url = site.offer("/a", bytes(size), *faults, etag='"1"')
    [result] = await download(downloader, url, sha256="0" * 64)
    assert isinstance(result.error, ChecksumError)
    assert await content(downloader.storage) == {}
    if isinstance(downloader.storage, FolderStorage):
        assert await asyncio.to_thread(parts_in, folder) == []


# --- Decompressing


@pytest.mark.parametrize("fault", ["", "chunked"])
@pytest.mark.parametrize("data", [b"", b"text", os.urandom(BIG)], ids=len)
@pytest.mark.parametrize("how", [{"etag": '"1"'}, {"last_modified": "Mon"}])
@pytest.mark.asyncio
async def test_a_compressed_file_can_be_stored_decompressed(
    downloader: Downloader,
    site: Any,
    caplog: pytest.LogCaptureFixture,
    how: dict[str, str],
    data: bytes,
    fault: str,
) -> None:
    downloader = replace(downloader, decompress=True)
    url = site.offer("/a", gzip.compress(data), fault, encoding="gzip", **how)
    assert (await download(downloader, url)).statuses() == ["saved"]
    assert await content(downloader.storage) == {"a": data}
    assert site.requests[0]["Accept-Encoding"] == "gzip, deflate"
    assert caplog.text == ""

    site.offer("/a", gzip.compress(data), fault, encoding="gzip", **how)
    assert (await download(downloader, url)).statuses() == ["up to date"]


@pytest.mark.parametrize("encoding", [None, "identity"])
@pytest.mark.asyncio
async def test_a_body_without_an_encoding_is_not_decompressed(
    downloader: Downloader, offer: Offer, encoding: str | None
) -> None:
    body = gzip.compress(b"text")
    url = offer("/a.gz", body, encoding=encoding)
    await download(replace(downloader, decompress=True), url)
    assert await content(downloader.storage) == {"a.gz": body}


@pytest.mark.parametrize("missing", [1, 8, 100_000])
@pytest.mark.parametrize("older", [{}, {"a": b"older"}])
@pytest.mark.asyncio
async def test_compressed_data_without_its_end_leaves_what_was_there(
    downloader: Downloader, offer: Offer, older: dict[str, bytes], missing: int
) -> None:
    """Even if the response is complete."""
    for body in older.values():
        await download(downloader, offer("/a", body))
    body = gzip.compress(os.urandom(BIG))[:-missing]
    url = offer("/a", body, etag='"1"', encoding="gzip")
    downloader = replace(downloader, attempts=1, decompress=True)
    [result] = await download(downloader, url)
    assert isinstance(result.error, IncompleteError)
    assert await content(downloader.storage) == older
    assert await downloader.storage.part("a") is None


@pytest.mark.asyncio
async def test_a_decompressed_file_that_was_cut_starts_again(
    downloader: Downloader, site: Any
) -> None:
    data = os.urandom(BIG)
    url = site.offer("/a", gzip.compress(data), "cut", encoding="gzip", etag='"1"')
    results = await download(replace(downloader, decompress=True), url)
    assert results.statuses() == ["saved"]
    assert await content(downloader.storage) == {"a": data}
    assert "Range" not in site.requests[-1]


@pytest.mark.asyncio
async def test_a_file_that_was_not_compressed_is_resumed(
    local: Downloader, site: Any
) -> None:
    body = os.urandom(BIG)
    url = site.offer("/a", body, "cut", etag='"1"')
    results = await download(replace(local, decompress=True), url)
    assert results.statuses() == ["saved"]
    assert await content(local.storage) == {"a": body}
    assert site.requests[-1]["Range"] == f"bytes={BIG // 2}-"
    # A server may count the bytes of a compressed file.
    assert site.requests[-1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("decompress", [False, True])
@pytest.mark.asyncio
async def test_a_file_is_downloaded_again_if_the_other_form_is_stored(
    downloader: Downloader, offer: Offer, decompress: bool
) -> None:
    body = gzip.compress(b"text")
    url = offer("/a", body, encoding="gzip", etag='"1"')
    stored = {False: {"a": body}, True: {"a": b"text"}}
    for choice in (decompress, not decompress):
        results = await download(replace(downloader, decompress=choice), url)
        assert results.statuses() == ["saved"]
        assert await content(downloader.storage) == stored[choice]


@pytest.mark.asyncio
async def test_a_part_that_is_stored_as_sent_is_not_decompressed(
    local: Downloader, site: Any
) -> None:
    data = os.urandom(BIG)
    body = gzip.compress(data)
    how = {"encoding": "gzip", "etag": '"1"'}
    url = site.offer("/a", body, *["cut"] * 9, ranges=False, **how)
    assert (await download(replace(local, attempts=1), url)).statuses() == ["failed"]
    site.offer("/a", body, **how)
    results = await download(replace(local, decompress=True), url)
    assert results.statuses() == ["saved"]
    assert await content(local.storage) == {"a": data}
    assert "Range" not in site.requests[-1]


@pytest.mark.parametrize("encoding", ["br", "gzip"])
@pytest.mark.asyncio
async def test_a_body_that_cannot_be_decompressed_is_an_error(
    downloader: Downloader, site: Any, encoding: str
) -> None:
    url = site.offer("/a", b"text", encoding=encoding, etag='"1"')
    [result] = await download(replace(downloader, decompress=True), url)
    assert isinstance(result.error, ValueError)
    assert await content(downloader.storage) == {}
    assert await downloader.storage.part("a") is None
    assert site.count["/a"] == 1


@pytest.mark.parametrize("data", [b"text", os.urandom(BIG)], ids=len)
@pytest.mark.asyncio
async def test_the_checksum_is_that_of_the_stored_bytes(
    downloader: Downloader, offer: Offer, data: bytes
) -> None:
    downloader = replace(downloader, decompress=True)
    body = gzip.compress(data)
    url = offer("/a", body, encoding="gzip")
    [result] = await download(downloader, url, sha256=hashlib.sha256(body).hexdigest())
    assert isinstance(result.error, ChecksumError)
    assert await content(downloader.storage) == {}
    [result] = await download(downloader, url, sha256=hashlib.sha256(data).hexdigest())
    assert result.status == "saved"
    assert await content(downloader.storage) == {"a": data}


@pytest.mark.asyncio
async def test_a_small_body_that_contains_a_large_file_does_not_fill_the_memory(
    downloader: Downloader, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files are written at once, but this body only seems to be small."""
    written: list[int] = []
    write, next_chunk = PartFile.write, BodyReader._next_chunk

    def write_and_count(part: PartFile, data: bytes) -> None:
        written.append(len(data))
        write(part, data)

    async def count_next_chunk(reader: BodyReader) -> bytes:
        chunk = await next_chunk(reader)
        written.append(len(chunk))
        return chunk

    monkeypatch.setattr(PartFile, "write", write_and_count)
    monkeypatch.setattr(BodyReader, "_next_chunk", count_next_chunk)
    size = 20 * 2**20
    url = offer("/a", gzip.compress(bytes(size)), encoding="gzip")
    results = await download(replace(downloader, decompress=True), url)
    assert results.statuses() == ["saved"]
    assert sum(written) == size
    assert max(written) <= 2**20


# --- Failures


@pytest.mark.parametrize(
    "fault", [500, 503, 429, "busy", "cut", "long", "hang", "stall"]
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_temporary_failures_are_retried(
    local: Downloader, site: Any, fault: int | str
) -> None:
    url = site.offer("/a.txt", b"text", fault, fault)
    assert (await download(local, url)).statuses() == ["saved"]
    assert await content(local.storage) == {"a.txt": b"text"}
    assert site.count["/a.txt"] == 3


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (503, 3),
        ("cut", 3),
        ("hang", 3),
        (404, 1),
        (403, 1),
        (302, 1),
        (101, 1),
        (204, 1),
        (206, 1),
        (304, 1),
        (416, 1),
    ],
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_file_that_fails_does_not_stop_the_others(
    local: Downloader, site: Any, fault: int | str, attempts: int
) -> None:
    urls = [site.offer("/a.txt", b"text", *[fault] * 9), site.offer("/b.txt")]
    results = await download(replace(local, concurrency=1, attempts=3), *urls)
    assert results.statuses() == ["failed", "saved"]
    assert site.count["/a.txt"] == attempts
    assert list(await content(local.storage)) == ["b.txt"]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_wait_for_a_busy_server_is_limited(
    local: Downloader, site: Any
) -> None:
    urls = [site.offer("/a", b"text", *[429] * 9999), site.offer("/b")]
    results = await download(replace(local, concurrency=1), *urls)
    assert results.statuses()[0] == "failed"
    assert asyncio.get_running_loop().time() < 2000


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_busy_server_does_not_delay_the_others(
    local: Downloader, site: Any
) -> None:
    loop = asyncio.get_running_loop()
    busy = site.offer("/a", b"text", "busy")  # for 40 s
    other = site.offer("/b").replace("127.0.0.1", "localhost")
    times: dict[str, float] = {}

    def on_result(result: Result) -> None:
        times[result.source.url] = loop.time()

    await local.download_all([Source(busy), Source(other)], on_result)
    assert times[other] < 10
    assert times[busy] >= 40


@pytest.mark.asyncio
async def test_of_two_urls_with_one_name_the_second_fails(
    downloader: Downloader, offer: Offer
) -> None:
    results = await download(downloader, offer("/x/a", b"x"), offer("/y/a", b"y"))
    assert sorted(results.statuses()) == ["failed", "saved"]
    assert await content(downloader.storage) == {"a": b"x"}


@contextmanager
def small_files() -> Iterator[None]:
    """Make the system refuse files of more than 100,000 bytes, as a full disk would.

    It refuses them to the whole process, so the block must end before pytest writes.
    """
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [200_000, BIG])
@pytest.mark.asyncio
async def test_a_full_disk_is_an_error_and_the_others_are_saved(
    local: Downloader, offer: Offer, size: int
) -> None:
    big, small = offer("/big", bytes(size)), offer("/small")
    with small_files():
        results = await download(replace(local, concurrency=1), big, small)
    assert results.statuses() == ["failed", "saved"]
    assert "File too large" in str(results[0].error)
    assert await content(local.storage) == {"small": b"text"}


@pytest.mark.asyncio
async def test_a_name_that_is_too_long_is_an_error_and_the_others_are_saved(
    local: Downloader, offer: Offer
) -> None:
    results = await download(local, offer("/" + "x" * 300), offer("/small"))
    assert sorted(results.statuses()) == ["failed", "saved"]


# --- Limits


@pytest.mark.parametrize("limit", [1, 101])  # more than aiohttp's own limit
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_at_most_concurrency_downloads_run_at_a_time(
    local: Downloader, site: Any, limit: int
) -> None:
    urls = [site.offer(f"/{n}", b"text", "slow") for n in range(2 * limit)]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await download(replace(local, session=session, concurrency=limit), *urls)
    assert site.peak == limit
    assert asyncio.get_running_loop().time() >= 10 * 2


@pytest.mark.parametrize("limit", ["concurrency", "attempts"])
def test_a_limit_below_one_is_refused(limit: str) -> None:
    limits: dict[str, Any] = {limit: 0}
    nothing: Any = None
    with pytest.raises(ValueError, match="must be positive"):
        Downloader(session=nothing, storage=nothing, **limits)
