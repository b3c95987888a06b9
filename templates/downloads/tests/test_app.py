"""What the program promises, tried on a site on a local port and in real stores."""

import asyncio
import gzip
import math
import re
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url
from pytest_mock import MockerFixture

from downloads.app import (
    GRACE,
    PART,
    Downloader,
    backoff,
    file_name,
    finish,
    main,
    reason,
)

Offer = Callable[..., str]
BIG = 2 * PART + 1  # bytes: three parts


async def content(store: ObjectStore) -> dict[str, bytes]:
    """Return all that a store holds."""
    names = [file["path"] for file in await store.list().collect_async()]
    return {
        name: bytes(await (await store.get_async(name)).bytes_async()) for name in names
    }


def everything_in(folder: Path) -> list[str]:
    """Return the names of all files in a folder, those that a store hides too."""
    return sorted(path.name for path in folder.iterdir())


class Results(list[tuple[str, ...]]):
    """Writes down what it is told, without the hosts of the URLs."""

    def __call__(self, *result: str) -> None:
        self.append(tuple(re.sub(r"http://[\d.:]+", "", part) for part in result))


# Whole or not at all.


@pytest.mark.parametrize("size", [0, 1, 100_000, PART, BIG])
@pytest.mark.asyncio
async def test_a_file_arrives_as_it_is(
    downloader: Downloader, store: ObjectStore, offer: Offer, size: int
) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    assert await downloader.save(offer("/a.bin", body[:size]), "a.bin")
    assert await content(store) == {"a.bin": body[:size]}


@pytest.mark.parametrize("fault", ["chunked", "gzip"])
@pytest.mark.parametrize("body", [b"", b"text"])
@pytest.mark.asyncio
async def test_a_file_whose_size_nobody_announces_arrives_too(
    downloader: Downloader, store: ObjectStore, offer: Offer, fault: str, body: bytes
) -> None:
    assert await downloader.save(offer("/a.txt", body, fault), "a.txt")
    assert await content(store) == {"a.txt": body}


@pytest.mark.parametrize("size", [4, BIG])
@pytest.mark.parametrize("fault", ["cut", "long"])
@pytest.mark.parametrize("older", [[], ["a.bin"]])
@pytest.mark.asyncio
async def test_a_file_that_comes_in_short_leaves_what_was_there(
    local: Downloader,
    folder: Path,
    offer: Offer,
    older: list[str],
    fault: str,
    size: int,
) -> None:
    for name in older:
        (folder / name).write_text("an older file")
    with pytest.raises(aiohttp.ClientPayloadError):
        await local.save(offer("/a.bin", bytes(size), fault), "a.bin")
    assert everything_in(folder) == older
    assert all((folder / name).read_text() == "an older file" for name in older)


@pytest.mark.asyncio
async def test_a_name_is_not_there_before_its_file_is_whole(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    busy: asyncio.Event,
    gate: asyncio.Event,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            downloader.save(offer("/a.bin", bytes(BIG), "stall"), "a.bin")
        )
        await busy.wait()
        assert await content(store) == {}
        gate.set()
    assert await content(store) == {"a.bin": bytes(BIG)}


@pytest.mark.asyncio
async def test_cancelled_at_any_await_it_leaves_nothing_behind(
    local: Downloader,
    folder: Path,
    offer: Offer,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    url = offer("/a.bin", bytes(BIG))

    def check() -> None:
        assert everything_in(folder) == []
        assert local.bars.tasks == []

    assert await cancel_everywhere(lambda: local.save(url, "a.bin"), check) > 2
    assert everything_in(folder) == ["a.bin"]


@pytest.mark.asyncio
async def test_cancelled_in_the_middle_of_a_body_it_leaves_nothing_behind(
    local: Downloader, folder: Path, offer: Offer, busy: asyncio.Event
) -> None:
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(
            local.save(offer("/a.bin", bytes(BIG), "stall"), "a.bin")
        )
        await busy.wait()
        work.cancel()
    assert work.cancelled()
    assert everything_in(folder) == []
    assert local.bars.tasks == []


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_store_that_does_not_stop_is_given_up() -> None:
    never = asyncio.get_running_loop().create_future()
    work = asyncio.ensure_future(finish(never))
    await asyncio.sleep(1)
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert never.cancelled()
    assert asyncio.get_running_loop().time() == 1 + GRACE


# Again and again.


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "long", "hang", "stall"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_what_may_pass_is_tried_again(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    traffic: Counter[str],
    fault: int | str,
) -> None:
    urls = [offer("/a.txt", b"text", fault, fault)]
    assert (await downloader.save_all(urls, print))["saved"] == 1
    assert await content(store) == {"a.txt": b"text"}
    assert traffic["/a.txt"] == 3


@pytest.mark.parametrize(
    ("fault", "tries", "why"),
    [
        (503, 3, "503 Service Unavailable"),
        ("cut", 3, "Response payload is not completed"),
        ("hang", 3, "Timeout on reading data from socket"),
        (404, 1, "404 Not Found"),
        (403, 1, "403 Forbidden"),
        ("loop", 10, "too many redirects"),
        (302, 1, "302 Found: not a whole file"),
        (101, 1, "101 Switching Protocols: not a whole file"),
        (204, 1, "204 No Content: not a whole file"),
        (206, 1, "206 Partial Content: not a whole file"),
    ],
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_what_fails_in_the_end_is_told_and_stops_no_other(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    traffic: Counter[str],
    fault: int | str,
    tries: int,
    why: str,
) -> None:
    urls, results = [offer("/a.txt", b"text", *[fault] * 9), offer("/b.txt")], Results()
    states = await replace(downloader, concurrency=1, attempts=3).save_all(
        urls, results
    )
    assert states == {"saved": 1, "present": 0, "failed": 1}
    assert results[1:] == [("/b.txt", "saved", "b.txt")]
    assert results[0][:2] == ("/a.txt", "failed")
    assert results[0][2].startswith(why)
    assert traffic["/a.txt"] == tries
    assert list(await content(store)) == ["b.txt"]


@pytest.mark.parametrize(("asked", "pause"), [("0", 0), ("40", 40), ("90000", 600)])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_site_says_when_to_come_again_and_the_log_why(
    offer: Offer,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    asked: str,
    pause: float,
) -> None:
    url = offer("/a.txt", b"text", asked)
    assert await main(url, to=str(folder)) == 0
    assert asyncio.get_running_loop().time() >= pause
    assert f"in {pause:.1f} s: {url}: 503 Service Unavailable" in caplog.messages


@pytest.mark.parametrize(
    "after", ["", "soon", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"]
)
@pytest.mark.parametrize(("status", "worth"), [(429, True), (500, True), (404, False)])
def test_a_pause_that_is_no_number_of_seconds_is_the_usual_one(
    mocker: MockerFixture, status: int, worth: bool, after: str
) -> None:
    request = mocker.create_autospec(aiohttp.RequestInfo, instance=True)
    headers = CIMultiDict({"retry-after": after})
    error = aiohttp.ClientResponseError(request, (), status=status, headers=headers)
    assert backoff(error) is worth


@pytest.mark.asyncio
async def test_a_second_run_gets_only_what_is_not_there(
    downloader: Downloader, store: ObjectStore, offer: Offer
) -> None:
    urls = [offer(f"/{name}", b"new") for name in "abcd"]
    await store.put_async("a", b"old")  # the same size: it stays
    await store.put_async("b", b"older")
    states = await downloader.save_all(urls, print)
    assert states == {"saved": 3, "present": 1, "failed": 0}
    assert await content(store) == {"a": b"old", "b": b"new", "c": b"new", "d": b"new"}
    assert (await downloader.save_all(urls, print))["present"] == 4


@pytest.mark.asyncio
async def test_what_is_there_is_not_sent_again(
    downloader: Downloader, store: ObjectStore, offer: Offer
) -> None:
    await store.put_async("a.bin", bytes(BIG))
    assert not await downloader.save(offer("/a.bin", bytes(BIG), "stall"), "a.bin")


@pytest.mark.asyncio
async def test_a_file_that_comes_compressed_is_not_taken_for_one_of_its_compressed_size(
    downloader: Downloader, store: ObjectStore, offer: Offer
) -> None:
    await store.put_async("a.txt", gzip.compress(b"text"))
    assert await downloader.save(offer("/a.txt", b"text", "gzip"), "a.txt")
    assert await content(store) == {"a.txt": b"text"}


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has names that are no text"
)
@pytest.mark.asyncio
async def test_an_odd_name_in_the_folder_does_no_harm(
    local: Downloader, folder: Path, offer: Offer
) -> None:
    (folder / "\udcff").touch()
    (folder / "a").touch()
    states = await local.save_all([offer("/a", b""), offer("/b")], print)
    assert states == {"saved": 1, "present": 1, "failed": 0}


# Names.


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.png", "a.png"),
        ("x/y/a.png?size=big#top", "a.png"),
        ("caf%C3%A9%20%231.png", "café #1.png"),
        ("100%25.png", "100%.png"),
        ("...", "..."),
    ],
)
def test_a_file_is_called_like_the_last_part_of_its_path(path: str, name: str) -> None:
    assert file_name(f"https://example.org/{path}") == name
    assert file_name(f"HTTP://example.org/{path}") == name


@pytest.mark.parametrize(
    "url",
    [
        *[
            "http://h",
            "http://h/",
            "http://h/a/",
            "http://h/?a.png",
            "http://h/.",
            "http://h/x/..",
        ],
        *[
            "http://h/..%2fa",
            "http://h/%2e%2e",
            "http://h/..%5ca",
            "http://h/%2fetc%2fpasswd",
        ],
        *[
            "http://h/a:",
            "http://h/a%00b",
            "http://h/a%0Ab",
            "http://h/%1b[31m",
            "http://[",
        ],
        *["http://h/%3Cx%7C", "ftp://h/a", "a.png"],
    ],
)
def test_a_name_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(
        ValueError, match=r"not a safe file name|not an http|Invalid IPv6"
    ):
        file_name(url)


@pytest.mark.asyncio
async def test_of_two_urls_with_one_name_the_second_fails(
    downloader: Downloader, store: ObjectStore, offer: Offer, site: TestServer
) -> None:
    urls = [
        offer("/x/a", b"x"),
        offer("/y/a", b"y"),
        str(site.make_url("/")) + "z/..%2fa",
    ]
    results = Results()
    assert (await downloader.save_all(urls, results))["failed"] == 2
    assert await content(store) == {"a": b"x"}
    assert ("/y/a", "failed", "/x/a has the same file name") in results
    assert ("/z/..%2fa", "failed", "not a safe file name: '../a'") in results


# Limits.


@pytest.mark.parametrize("limit", [1, 101])  # aiohttp's own limit would be 100
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_as_many_run_at_a_time_as_allowed(
    offer: Offer, folder: Path, traffic: Counter[str], limit: int
) -> None:
    urls = [offer(f"/{n}", b"text", "slow") for n in range(2 * limit)]
    assert await main(*urls, to=str(folder), concurrency=limit) == 0
    assert traffic["peak"] == limit
    assert asyncio.get_running_loop().time() >= 10 * 2


@pytest.mark.parametrize(("count", "limit", "tasks"), [(1_000, 7, 7), (3, 500, 3)])
@pytest.mark.asyncio
async def test_there_are_as_many_tasks_as_downloads_at_a_time(
    downloader: Downloader, count: int, limit: int, tasks: int
) -> None:
    before, seen = len(asyncio.all_tasks()), set[int]()
    await replace(downloader, concurrency=limit).save_all(
        (f"ftp://example.org/{n}" for n in range(count)),
        lambda *_: seen.add(len(asyncio.all_tasks()) - before),
    )
    assert max(seen) == tasks


@pytest.mark.parametrize("limit", ["concurrency", "attempts"])
@pytest.mark.asyncio
async def test_a_limit_below_one_is_refused(downloader: Downloader, limit: str) -> None:
    limits: dict[str, Any] = {limit: 0}
    with pytest.raises(ValueError, match="must be positive"):
        await replace(downloader, **limits).save_all([], print)


@contextmanager
def small_files() -> Iterator[None]:
    """Make the system refuse files of more than 100,000 bytes, as a full disk would.

    It refuses them to the whole process, so it must end before pytest writes what it
    has to tell.
    """
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [200_000, 4 * PART])
@pytest.mark.asyncio
async def test_a_full_disk_is_told_and_leaves_no_half_file(
    offer: Offer, folder: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    big, small = offer("/big", bytes(size)), offer("/small")
    with small_files():
        assert await main(big, small, to=str(folder)) == 1
    assert everything_in(folder) == ["small"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{big}: ")
    assert "File too large" in line


@pytest.mark.asyncio
async def test_no_bar_is_left_of_what_did_not_fit(
    local: Downloader, offer: Offer
) -> None:
    with small_files(), pytest.raises(BaseError, match="File too large"):
        await local.save(offer("/a", bytes(4 * PART)), "a")
    assert local.bars.tasks == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        *[(OSError("a long\nstory"), "a long"), (OSError("\x1b[31mred"), "[31mred")],
        (TimeoutError(), "TimeoutError()"),
    ],
)
def test_a_reason_is_one_line_that_a_terminal_can_show(
    error: Exception, line: str
) -> None:
    assert reason(error) == line


# The program.


@pytest.mark.asyncio
async def test_it_prints_where_the_files_are_and_what_failed(
    offer: Offer, site: TestServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(site.make_url("/missing"))
    status = await main(
        offer("/a"), missing, offer("/b"), to=str(folder), concurrency=1
    )
    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == f"{folder}/a\n{folder}/b\n"
    assert printed.err == f"{missing}: 404 Not Found\n"


@pytest.mark.asyncio
async def test_urls_come_from_a_file_too_each_once(
    offer: Offer,
    tmp_path: Path,
    traffic: Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = offer("/a"), offer("/b")
    listed = tmp_path / "urls.txt"
    # Windows editors begin a file with a mark that is not to be seen.
    listed.write_text(f"{b}\n\n  {a}\n{b}\n", encoding="utf-8-sig")
    assert await main(a, to=str(tmp_path / "new" / "folder"), from_file=listed) == 0
    assert everything_in(tmp_path / "new" / "folder") == ["a", "b"]
    assert (traffic["/a"], traffic["/b"]) == (1, 1)


@pytest.mark.parametrize(
    ("to", "listed", "why"),
    [
        ("file.txt/folder", None, "Not a directory"),
        ("gopher://bucket", None, "Unable to recognise URL"),
        ("s3://", None, "Unable to recognise URL"),
        ("saved", "urls.txt", "No such file"),
    ],
)
@pytest.mark.asyncio
async def test_a_place_or_a_list_that_cannot_be_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    to: str,
    listed: str | None,
    why: str,
) -> None:
    (tmp_path / "file.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert (
        await main("http://h/a", to=to, from_file=Path(listed) if listed else None) == 1
    )
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{listed or to}: ")
    assert why in line


@pytest.mark.parametrize(("seconds", "status"), [(4, 1), (7, 0)])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_timeout_is_for_silence_and_not_for_the_whole_file(
    offer: Offer, folder: Path, seconds: float, status: int
) -> None:
    url = offer("/a", b"text", "slow")  # twice 5 s
    assert await main(url, to=str(folder), timeout=seconds, attempts=1) == status


@pytest.mark.asyncio
async def test_a_timeout_may_be_infinite(offer: Offer, folder: Path) -> None:
    assert await main(offer("/a"), to=str(folder), timeout=math.inf) == 0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_timeout_is_for_connecting_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        socket.socket() as silent
    ):  # it takes the call and says nothing, so no TLS begins
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/a"
        # Where it overwrites, it does not ask the store, whose threads know no virtual
        # clock.
        assert (
            await main(url, to=str(folder), timeout=7, attempts=1, overwrite=True) == 1
        )
    assert asyncio.get_running_loop().time() == pytest.approx(7)
    assert capsys.readouterr().err.startswith(f"{url}: Connection timeout")


@pytest.mark.asyncio
async def test_it_overwrites_if_it_shall(offer: Offer, folder: Path) -> None:
    (folder / "a").write_bytes(b"old")
    assert await main(offer("/a", b"new"), to=str(folder), overwrite=True) == 0
    assert (folder / "a").read_bytes() == b"new"


@pytest.mark.asyncio
async def test_a_terminal_shows_a_bar_for_each_file_and_one_for_all(
    offer: Offer,
    folder: Path,
    busy: asyncio.Event,
    gate: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    urls = [offer("/a[b].txt", bytes(100_000), "stall"), offer("/c.txt")]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(main(*urls, urls[1], to=str(folder)))  # the second one twice
        await busy.wait()
        gate.set()
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == [f"{folder}/a[b].txt", f"{folder}/c.txt"]
    assert "a[b].txt" in printed.err
    assert re.match(r" files .*100%", printed.err.rpartition("all")[2])


# A real S3 protocol server.


@pytest.mark.asyncio
async def test_the_same_program_fills_a_bucket(
    offer: Offer, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"s3://{bucket.rpartition('/')[2]}/backup"
    small, big = offer("/small.txt"), offer("/big.bin", bytes(BIG))
    assert await main(small, big, offer("/empty", b"", "chunked"), to=place) == 0
    store = from_url(place)
    assert await content(store) == {
        "small.txt": b"text",
        "big.bin": bytes(BIG),
        "empty": b"",
    }
    assert await main(small, big, to=place) == 0
    assert capsys.readouterr().out.count(f"{place}/big.bin\n") == 2
    assert await main(small, to="s3://no-such-bucket") == 1
    assert capsys.readouterr().err.startswith(
        f"{small}: Object at location small.txt not found"
    )


@pytest.mark.asyncio
async def test_a_bucket_keeps_no_hidden_part_of_a_file_that_was_cut_or_cancelled(
    local: Downloader, bucket: str, offer: Offer, busy: asyncio.Event
) -> None:
    store = from_url(f"s3://{bucket.rpartition('/')[2]}")
    downloader = replace(local, store=store)
    with pytest.raises(aiohttp.ClientPayloadError):
        await downloader.save(offer("/a.bin", bytes(4 * PART), "cut"), "a.bin")
    async with asyncio.TaskGroup() as tasks:
        url = offer("/a.bin", bytes(4 * PART), "stall")
        work = tasks.create_task(downloader.save(url, "a.bin"))
        await busy.wait()
        work.cancel()
    async with local.session.get(f"{bucket}?uploads") as answer:
        assert "<Upload>" not in await answer.text()
    assert await content(store) == {}
