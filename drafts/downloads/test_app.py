"""What the program promises, tried on a site on a local port and in real stores."""

import asyncio
import gzip
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from rich.progress import Progress

from app import GRACE, PART, Downloader, file_name, finish, main, reason

Offer = Callable[..., str]
OnResult = Callable[[str, str, str], object]
BIG = 2 * PART + 1  # bytes: three parts


async def content(store: ObjectStore) -> dict[str, bytes]:
    """Return all that a store holds."""
    names = [file["path"] for file in await store.list().collect_async()]
    return {name: bytes(await (await store.get_async(name)).bytes_async()) for name in names}


def everything_in(folder: Path) -> list[str]:
    """Return the names of all files in a folder, those that a store hides too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def results() -> list[tuple[str, ...]]:
    """What `on_result` was told, without the hosts of the URLs."""
    return []


@pytest.fixture
def on_result(results: list[tuple[str, ...]], site: TestServer) -> OnResult:
    """Write down the results."""
    root = str(site.make_url("/"))
    return lambda *result: results.append(tuple(part.replace(root, "/") for part in result))


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
@pytest.mark.asyncio
async def test_a_file_that_comes_in_short_leaves_nothing(
    session: aiohttp.ClientSession,
    bars: Progress,
    folder: Path,
    offer: Offer,
    fault: str,
    size: int,
) -> None:
    downloader = Downloader(session, LocalStore(folder), bars)
    with pytest.raises(aiohttp.ClientPayloadError):
        await downloader.save(offer("/a.bin", bytes(size), fault), "a.bin")
    assert everything_in(folder) == []


@pytest.mark.asyncio
async def test_a_file_that_comes_in_short_does_not_replace_an_older_one(
    downloader: Downloader, store: ObjectStore, offer: Offer
) -> None:
    await store.put_async("a.bin", b"older")
    with pytest.raises(aiohttp.ClientPayloadError):
        await downloader.save(offer("/a.bin", bytes(BIG), "cut"), "a.bin")
    assert await content(store) == {"a.bin": b"older"}


@pytest.mark.asyncio
async def test_a_name_is_not_there_before_its_file_is_whole(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    busy: asyncio.Event,
    gate: asyncio.Event,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(downloader.save(offer("/a.bin", bytes(BIG), "stall"), "a.bin"))
        await busy.wait()
        assert await content(store) == {}
        gate.set()
    assert await content(store) == {"a.bin": bytes(BIG)}


@pytest.mark.asyncio
async def test_cancelled_at_any_await_it_leaves_nothing_behind(
    session: aiohttp.ClientSession,
    bars: Progress,
    folder: Path,
    offer: Offer,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    downloader = Downloader(session, LocalStore(folder), bars)
    url = offer("/a.bin", bytes(BIG))

    def check() -> None:
        assert everything_in(folder) == []
        assert bars.tasks == []

    assert await cancel_everywhere(lambda: downloader.save(url, "a.bin"), check) > 2
    assert everything_in(folder) == ["a.bin"]


@pytest.mark.asyncio
async def test_cancelled_in_the_middle_of_a_body_it_leaves_nothing_behind(
    session: aiohttp.ClientSession,
    bars: Progress,
    folder: Path,
    offer: Offer,
    busy: asyncio.Event,
) -> None:
    downloader = Downloader(session, LocalStore(folder), bars)
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(downloader.save(offer("/a.bin", bytes(BIG), "stall"), "a.bin"))
        await busy.wait()
        work.cancel()
    assert work.cancelled()
    assert everything_in(folder) == []
    assert bars.tasks == []


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_store_that_does_not_stop_is_given_up() -> None:
    never = asyncio.get_running_loop().create_future()
    work = asyncio.ensure_future(finish(never, undo=lambda: None))
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
    on_result: OnResult,
    fault: int | str,
) -> None:
    urls = [offer("/a.txt", b"text", fault, fault)]
    assert (await downloader.save_all(urls, on_result))["saved"] == 1
    assert await content(store) == {"a.txt": b"text"}
    assert traffic["/a.txt"] == 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (503, "503 Service Unavailable"),
        ("cut", "Response payload is not completed: "),
        ("hang", "Timeout on reading data from socket"),
    ],
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_after_its_tries_a_file_has_failed(
    downloader: Downloader,
    offer: Offer,
    traffic: Counter[str],
    on_result: OnResult,
    results: list[tuple[str, ...]],
    fault: int | str,
    why: str,
) -> None:
    urls = [offer("/a.txt", b"text", *[fault] * 9)]
    assert (await downloader.save_all(urls, on_result, attempts=3))["failed"] == 1
    assert traffic["/a.txt"] == 3
    [(_, _, told)] = results
    assert told.startswith(why)


@pytest.mark.parametrize(
    ("fault", "why"),
    [(404, "404 Not Found"), (403, "403 Forbidden"), ("loop", "too many redirects")],
)
@pytest.mark.asyncio
async def test_what_will_not_pass_is_not_tried_again_and_stops_no_other(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    traffic: Counter[str],
    on_result: OnResult,
    results: list[tuple[str, ...]],
    fault: int | str,
    why: str,
) -> None:
    urls = [offer("/a.txt", b"text", fault), offer("/b.txt")]
    states = await downloader.save_all(urls, on_result, concurrency=1)
    assert states == {"saved": 1, "present": 0, "failed": 1}
    assert results == [("/a.txt", "failed", why), ("/b.txt", "saved", "b.txt")]
    assert traffic["/a.txt"] <= 11
    assert list(await content(store)) == ["b.txt"]


@pytest.mark.asyncio
async def test_a_second_run_gets_only_what_is_not_there(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    on_result: OnResult,
) -> None:
    urls = [offer(f"/{name}", b"new") for name in "abcd"]
    await store.put_async("a", b"old")  # the same size: it stays
    await store.put_async("b", b"older")
    states = await downloader.save_all(urls, on_result)
    assert states == {"saved": 3, "present": 1, "failed": 0}
    assert await content(store) == {"a": b"old", "b": b"new", "c": b"new", "d": b"new"}
    assert (await downloader.save_all(urls, on_result))["present"] == 4


@pytest.mark.asyncio
async def test_what_is_there_is_not_sent_again(
    downloader: Downloader, store: ObjectStore, offer: Offer, busy: asyncio.Event
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


@pytest.mark.asyncio
async def test_overwriting_gets_everything(
    session: aiohttp.ClientSession, store: ObjectStore, bars: Progress, offer: Offer
) -> None:
    await store.put_async("a", b"old")
    assert await Downloader(session, store, bars, overwrite=True).save(offer("/a", b"new"), "a")
    assert await content(store) == {"a": b"new"}


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


@pytest.mark.parametrize(
    "url",
    [
        *["http://h", "http://h/", "http://h/a/", "http://h/?a.png", "http://h/.", "http://h/x/.."],
        *["http://h/..%2fa", "http://h/%2e%2e", "http://h/..%5ca", "http://h/%2fetc%2fpasswd"],
        *[
            "http://h/a:",
            "http://h/a%00b",
            "http://h/a%0Ab",
            "http://h/%1b[31m",
            "ftp://h/a",
            "a.png",
            "http://[",
        ],
    ],
)
def test_a_name_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"not a safe file name|not an http|Invalid IPv6"):
        file_name(url)


@pytest.mark.asyncio
async def test_of_two_urls_with_one_name_the_second_fails(
    downloader: Downloader,
    store: ObjectStore,
    offer: Offer,
    site: TestServer,
    on_result: OnResult,
    results: list[tuple[str, ...]],
) -> None:
    urls = [offer("/x/a", b"x"), offer("/y/a", b"y"), str(site.make_url("/")) + "z/..%2fa"]
    assert (await downloader.save_all(urls, on_result))["failed"] == 2
    assert await content(store) == {"a": b"x"}
    assert ("/y/a", "failed", "/x/a has the same file name") in results
    assert ("/z/..%2fa", "failed", "not a safe file name: '../a'") in results


# Limits.


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_as_many_run_at_a_time_as_allowed(
    offer: Offer, folder: Path, traffic: Counter[str], limit: int
) -> None:
    urls = [offer(f"/{n}", b"text", "slow") for n in range(6)]
    assert await main(*urls, to=str(folder), concurrency=limit) == 0
    assert traffic["peak"] == limit
    assert asyncio.get_running_loop().time() >= 10 * 6 / limit


@pytest.mark.asyncio
async def test_many_urls_are_not_as_many_tasks(
    session: aiohttp.ClientSession, store: ObjectStore, bars: Progress
) -> None:
    urls = (f"ftp://example.org/{n}" for n in range(1_000))
    before = len(asyncio.all_tasks())
    most = 0

    def count(*_: str) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()) - before)

    await Downloader(session, store, bars).save_all(urls, count, concurrency=7)
    assert most == 7


@pytest.mark.parametrize("limit", ["concurrency", "attempts"])
@pytest.mark.asyncio
async def test_a_limit_below_one_is_refused(downloader: Downloader, limit: str) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        await downloader.save_all([], print, **{limit: 0})


@pytest.fixture
def small_files() -> Iterator[None]:
    """Make the system refuse files of more than 100,000 bytes, as a full disk would."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("size", [200_000, 4 * PART])
@pytest.mark.asyncio
async def test_a_full_disk_is_told_and_leaves_no_half_file(
    offer: Offer, folder: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    big, small = offer("/big", bytes(size)), offer("/small")
    assert await main(big, small, to=str(folder)) == 1
    assert everything_in(folder) == ["small"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{big}: ")
    assert "File too large" in line


@pytest.mark.usefixtures("small_files")
@pytest.mark.asyncio
async def test_no_bar_is_left_of_what_did_not_fit(
    session: aiohttp.ClientSession, bars: Progress, folder: Path, offer: Offer
) -> None:
    with pytest.raises(BaseError, match="File too large"):
        await Downloader(session, LocalStore(folder), bars).save(offer("/a", bytes(4 * PART)), "a")
    assert bars.tasks == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("a long\nstory"), "a long"),
        (OSError("\x1b[31mred"), "[31mred"),
        (TimeoutError(), "TimeoutError()"),
    ],
)
def test_a_reason_is_one_line_that_a_terminal_can_show(error: Exception, line: str) -> None:
    assert reason(error) == line


# The program.


@pytest.mark.asyncio
async def test_it_prints_where_the_files_are_and_what_failed(
    offer: Offer, site: TestServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(site.make_url("/missing"))
    status = await main(offer("/a"), missing, offer("/b"), to=str(folder), concurrency=1)
    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == f"{folder}/a\n{folder}/b\n"
    assert printed.err == f"{missing}: 404 Not Found\n"


@pytest.mark.asyncio
async def test_urls_come_from_a_file_too_each_once(
    offer: Offer, tmp_path: Path, traffic: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = offer("/a"), offer("/b")
    listed = tmp_path / "urls.txt"
    listed.write_text(f"{a}\n\n  {b}\n{b}\n")
    assert await main(a, to=str(tmp_path / "new" / "folder"), from_file=listed) == 0
    assert everything_in(tmp_path / "new" / "folder") == ["a", "b"]
    assert (traffic["/a"], traffic["/b"]) == (1, 1)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("file.txt/folder", "Not a directory"),
        ("gopher://bucket", "Unable to recognise URL"),
        ("s3://", "Unable to recognise URL"),
    ],
)
@pytest.mark.asyncio
async def test_a_place_that_cannot_be_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    to: str,
    why: str,
) -> None:
    (tmp_path / "file.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert await main("http://example.org/a", to=to) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{to}: ")
    assert why in line


@pytest.mark.asyncio
async def test_a_list_that_is_not_there_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(from_file=tmp_path / "urls.txt", to=str(tmp_path / "saved")) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "No such file" in line


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_silent_server_is_given_up_after_the_timeout(
    offer: Offer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = offer("/a", b"text", "stall")
    assert await main(url, to=str(folder), timeout=7, attempts=1) == 1
    assert asyncio.get_running_loop().time() == pytest.approx(7, abs=1)
    assert "Timeout" in capsys.readouterr().err


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_slow_server_may_take_longer_than_the_timeout(offer: Offer, folder: Path) -> None:
    assert await main(offer("/a", b"text", "slow"), to=str(folder), timeout=7, attempts=1) == 0
    assert asyncio.get_running_loop().time() > 7


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_new_try_is_logged_with_its_reason(
    offer: Offer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = offer("/a", b"text", 503)
    assert await main(url, to=str(folder)) == 0
    assert f"again: {url}: 503 Service Unavailable" in caplog.messages


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
        tasks.create_task(main(*urls, to=str(folder)))
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
    assert await content(store) == {"small.txt": b"text", "big.bin": bytes(BIG), "empty": b""}
    assert await main(small, big, to=place) == 0
    assert capsys.readouterr().out.count(f"{place}/big.bin\n") == 2
    assert await main(small, to="s3://no-such-bucket") == 1
    assert capsys.readouterr().err.startswith(f"{small}: Object at location small.txt not found")


@pytest.mark.asyncio
async def test_a_bucket_keeps_no_hidden_part_of_a_file_that_was_cut_or_cancelled(
    offer: Offer,
    bucket: str,
    session: aiohttp.ClientSession,
    bars: Progress,
    busy: asyncio.Event,
) -> None:
    store = from_url(f"s3://{bucket.rpartition('/')[2]}")
    downloader = Downloader(session, store, bars)
    with pytest.raises(aiohttp.ClientPayloadError):
        await downloader.save(offer("/a.bin", bytes(4 * PART), "cut"), "a.bin")
    async with asyncio.TaskGroup() as tasks:
        url = offer("/a.bin", bytes(4 * PART), "stall")
        work = tasks.create_task(downloader.save(url, "a.bin"))
        await busy.wait()
        work.cancel()
    async with session.get(f"{bucket}?uploads") as answer:
        assert "<Upload>" not in await answer.text()
    assert await content(store) == {}
