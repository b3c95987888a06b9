"""The program as a whole: options, output, the environment, and a real S3 server."""

import asyncio
import base64
import gzip
import hashlib
import math
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import cyclopts
import pytest
from obstore.store import from_url

from downloads.app import main, reason

Offer = Callable[..., str]
BIG = 10 * 2**20 + 1  # bytes; three parts of a bucket
README = Path(__file__).parents[1] / "README.md"


def visible(folder: Path) -> list[str]:
    """Return the names of the files in a folder, without the hidden subfolder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def missing(site: Any) -> str:
    """Return a URL that does not exist."""
    return str(site.server.make_url("/missing.txt"))


def basic(credentials: str) -> str:
    """Return the Authorization header for `name:password`."""
    return "Basic " + base64.b64encode(credentials.encode()).decode()


# --- Output


@pytest.mark.asyncio
async def test_it_prints_where_the_files_are_and_what_failed(
    site: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [site.offer("/a"), missing(site), site.offer("/b")]
    assert await main(*urls, to=str(folder), concurrency=1) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{folder}/a\n{folder}/b\n"
    assert printed.err == f"{missing(site)}: 404 Not Found\n"


@pytest.mark.asyncio
async def test_the_last_log_message_is_a_summary(
    site: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    a, b = site.offer("/a", etag='"1"'), site.offer("/b")
    assert await main(a, to=str(folder)) == 0
    assert await main(a, b, missing(site), to=str(folder)) == 1
    assert caplog.messages[-1] == "1 saved, 1 up to date, 1 failed"


@pytest.mark.asyncio
async def test_passwords_and_signatures_are_not_printed(
    site: Any,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = missing(site).replace("http://", "http://ada:secret@") + "?X-Sig=secret"
    unreachable = "http://ada:secret@localhost:1/a?token=secret"
    assert await main(url, unreachable, to=str(folder), attempts=2) == 1
    assert await main(url, to="s3://ada:secret@") == 1
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err + caplog.text
    assert f"{url.replace('secret', '***')}: 404 Not Found\n" in printed.err


def test_a_reason_is_never_empty() -> None:
    assert reason(OSError("full")) == "full"
    assert reason(TimeoutError()) == "TimeoutError()"


@pytest.mark.asyncio
async def test_a_redirect_to_itself_is_an_error(
    site: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = site.offer("/a", location="/a")
    assert await main(url, to=str(folder)) == 1
    assert capsys.readouterr().err == f"{url}: too many redirects\n"


@pytest.mark.asyncio
async def test_a_terminal_shows_a_bar_for_each_file_and_one_for_all(
    site: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    urls = [site.offer("/a[b].txt", bytes(100_000), "stall"), site.offer("/c.txt")]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(main(*urls, urls[1], to=str(folder)))  # the second one twice
        await site.busy.wait()
        site.gate.set()
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == [f"{folder}/a[b].txt", f"{folder}/c.txt"]
    assert "a[b].txt" in printed.err
    assert re.match(r" .*100%", printed.err.rpartition("files")[2])


# --- What to download


@pytest.mark.asyncio
async def test_urls_come_from_a_file_too_each_once(site: Any, tmp_path: Path) -> None:
    a, b = site.offer("/a"), site.offer("/b c")
    b = b.replace("%20", " ")
    checksum = hashlib.sha256(b"text").hexdigest()
    listed = tmp_path / "urls.txt"
    # Some Windows editors begin a file with an invisible mark.
    text = f"# a comment\n\n{b} sha256={checksum}\n  {a}\n{b}\n"
    await asyncio.to_thread(listed.write_text, text, encoding="utf-8-sig")
    folder = tmp_path / "new" / "folder"
    assert await main(a, to=str(folder), from_file=listed) == 0
    assert await asyncio.to_thread(visible, folder) == ["a", "b c"]
    assert (site.count["/a"], site.count["/b c"]) == (1, 1)


@pytest.mark.parametrize("text", [None, "", "# only a comment\n\n"])
@pytest.mark.asyncio
async def test_no_url_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    listed = None
    if text is not None:
        listed = tmp_path / "urls.txt"
        await asyncio.to_thread(listed.write_text, text)
    assert await main(from_file=listed, to=str(tmp_path / "saved")) == 1
    assert capsys.readouterr().err == "no URL to download; see --help\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"http://h/a sha256=1", "line 1: a checksum must be"),
    ],
)
@pytest.mark.asyncio
async def test_a_list_that_cannot_be_read_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    why: str,
) -> None:
    listed = tmp_path / "urls.txt"
    if content is not None:
        await asyncio.to_thread(listed.write_bytes, content)
    assert await main(from_file=listed, to=str(tmp_path / "saved")) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{listed}: ")
    assert why in line


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("urls.txt/folder", "Not a directory"),
        ("urls.txt", "Not a directory"),
        ("gopher://bucket", "Unable to recognise URL"),
        ("s3://", "Unable to recognise URL"),
    ],
)
@pytest.mark.asyncio
async def test_a_place_that_cannot_be_used_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    to: str,
    why: str,
) -> None:
    """Also if the URLs come from a file."""
    monkeypatch.chdir(tmp_path)
    listed = Path("urls.txt")
    await asyncio.to_thread(listed.write_text, "http://h/a\n")
    assert await main(from_file=listed, to=to) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{to}: ")
    assert why in line


@pytest.mark.asyncio
async def test_overwrite_downloads_files_that_are_up_to_date(
    site: Any, folder: Path
) -> None:
    url = site.offer("/a", etag='"1"')
    assert await main(url, to=str(folder)) == 0
    assert await main(url, to=str(folder), overwrite=True) == 0
    assert "If-None-Match" not in site.requests[1]


# --- Requests


@pytest.mark.asyncio
async def test_a_gz_file_is_stored_as_sent(site: Any, folder: Path) -> None:
    """Some servers send it with a header that would make a browser unpack it."""
    body = gzip.compress(b"text")
    url = site.offer("/a.txt.gz", body, encoding="gzip", etag='"1"')
    assert await main(url, to=str(folder)) == 0
    assert await asyncio.to_thread((folder / "a.txt.gz").read_bytes) == body
    assert site.requests[0]["Accept-Encoding"] == "identity"


@pytest.mark.asyncio
async def test_decompress_stores_a_compressed_body_decompressed(
    site: Any, folder: Path
) -> None:
    url = site.offer("/a.txt", gzip.compress(b"text"), encoding="gzip", etag='"1"')
    assert await main(url, to=str(folder), decompress=True) == 0
    assert await asyncio.to_thread((folder / "a.txt").read_bytes) == b"text"
    assert site.requests[0]["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize("redirected", [False, True])
@pytest.mark.asyncio
async def test_the_query_is_sent_as_it_is_given(
    site: Any, folder: Path, redirected: bool
) -> None:
    signed = "/a.txt?X-Sig=a%2Bb%2Fc%3D%3D&t=%7Ex&l=a%2Cb"
    url = str(site.server.make_url("/")).rstrip("/") + signed
    site.offer("/a.txt")
    if redirected:
        url = site.offer("/latest", location=signed)
    assert await main(url, to=str(folder)) == 0
    assert site.urls[-1] == signed


@pytest.mark.asyncio
async def test_headers_are_sent(site: Any, folder: Path) -> None:
    headers = ("Authorization: Bearer token", "X-Two:  words: more")
    assert await main(site.offer("/a"), to=str(folder), header=headers) == 0
    [request] = site.requests
    assert request["Authorization"] == "Bearer token"
    assert request["X-Two"] == "words: more"


@pytest.mark.asyncio
async def test_a_token_is_not_sent_to_another_host(site: Any, folder: Path) -> None:
    elsewhere = site.offer("/b").replace("127.0.0.1", "localhost")
    url = site.offer("/a", location=elsewhere)
    header = ("Authorization: Bearer token", "Cookie: a=b")
    assert await main(url, to=str(folder), header=header) == 0
    first, second = site.requests
    assert "Authorization" in first
    assert "Authorization" not in second
    assert "Cookie" not in second


@pytest.mark.parametrize("header", ["secret", ": secret", "a b: secret", "a: secret\n"])
@pytest.mark.asyncio
async def test_a_wrong_header_is_an_error_that_does_not_show_it(
    folder: Path, capsys: pytest.CaptureFixture[str], header: str
) -> None:
    assert await main("http://h/a", to=str(folder), header=(header,)) == 1
    assert capsys.readouterr().err == '--header: not of the form "Name: value"\n'


@pytest.mark.asyncio
async def test_the_proxy_of_the_environment_is_used(
    site: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.offer("/a.txt")
    monkeypatch.setenv("http_proxy", str(site.server.make_url("/")))
    assert await main("http://example.invalid/a.txt", to=str(folder)) == 0
    assert site.urls == ["http://example.invalid/a.txt"]


@pytest.mark.parametrize("variable", [True, False])
@pytest.mark.asyncio
async def test_the_password_in_netrc_is_used(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    name = "_netrc" if sys.platform == "win32" else ".netrc"
    netrc = tmp_path / name  # the home folder of this test
    if variable:
        netrc = tmp_path / "passwords"
        monkeypatch.setenv("NETRC", str(netrc))
    text = "machine 127.0.0.1 login ada password secret\n"
    await asyncio.to_thread(netrc.write_text, text)
    url = site.offer("/a")
    assert await main(url, to=str(tmp_path / "saved")) == 0
    [request] = site.requests
    assert request["Authorization"] == basic("ada:secret")
    header = ("Authorization: Bearer token",)
    assert await main(url, to=str(tmp_path / "saved"), header=header) == 1


@pytest.mark.asyncio
async def test_the_password_in_a_url_is_used(site: Any, folder: Path) -> None:
    url = site.offer("/a").replace("http://", "http://ada:p%40ss@")
    assert await main(url, to=str(folder)) == 0
    [request] = site.requests
    assert request["Authorization"] == basic("ada:p@ss")


# --- Killed


@pytest.mark.deadline(60)  # a process starts slowly on a busy machine
@pytest.mark.asyncio
async def test_a_killed_run_leaves_the_older_file_and_the_next_one_completes(
    site: Any, folder: Path
) -> None:
    body = os.urandom(BIG)
    await asyncio.to_thread((folder / "a.bin").write_bytes, b"older")
    url = site.offer("/a.bin", body, "stall", etag='"1"')
    code = (
        f"import asyncio; from {main.__module__} import main; "
        f"asyncio.run(main({url!r}, to={str(folder)!r}))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    await site.busy.wait()
    process.kill()
    await process.wait()
    assert await asyncio.to_thread((folder / "a.bin").read_bytes) == b"older"

    site.gate.set()
    assert await main(url, to=str(folder)) == 0
    assert await asyncio.to_thread((folder / "a.bin").read_bytes) == body


# --- Time


@pytest.mark.parametrize(("seconds", "status"), [(4, 1), (7, 0)])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_timeout_is_for_a_pause_and_not_for_the_whole_file(
    offer: Offer, folder: Path, seconds: float, status: int
) -> None:
    url = offer("/a", b"text", "slow")  # two pauses of 5 s
    assert await main(url, to=str(folder), timeout=seconds, attempts=1) == status


@pytest.mark.asyncio
async def test_a_timeout_may_be_infinite(offer: Offer, folder: Path) -> None:
    assert await main(offer("/a"), to=str(folder), timeout=math.inf) == 0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_timeout_is_for_connecting_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as silent:  # it accepts connections, but TLS never begins
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/a"
        assert await main(url, to=str(folder), timeout=7, attempts=1) == 1
    assert asyncio.get_running_loop().time() == pytest.approx(7)
    assert capsys.readouterr().err.startswith(f"{url}: Connection timeout")


@pytest.mark.deadline(60)  # a process starts slowly on a busy machine
@pytest.mark.asyncio
async def test_only_a_bucket_needs_the_library_for_buckets() -> None:
    """A program that starts faster is used more often."""
    code = f"import sys, {main.__module__}; sys.exit('obstore' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert await process.wait() == 0


# --- A real server that speaks the protocol of S3


async def content(place: str) -> dict[str, bytes]:
    """Return all files in a bucket, by name."""
    store = from_url(place)
    names = [file["path"] for file in await store.list().collect_async()]
    return {
        name: bytes(await (await store.get_async(name)).bytes_async()) for name in names
    }


@pytest.mark.asyncio
async def test_the_same_program_fills_a_bucket(
    site: Any, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"s3://{bucket.rpartition('/')[2]}/backup"
    small = site.offer("/small.txt", etag='"1"')
    big = site.offer("/big.bin", bytes(BIG), etag='"2"')
    empty = site.offer("/empty", b"", "chunked")
    assert await main(small, big, empty, to=place) == 0
    expected = {"small.txt": b"text", "big.bin": bytes(BIG), "empty": b""}
    assert await content(place) == expected

    assert await main(small, big, to=place) == 0
    assert capsys.readouterr().out.count(f"{place}/big.bin\n") == 2
    assert site.requests[-1]["If-None-Match"] in {'"1"', '"2"'}

    site.offer("/small.txt", b"new!", etag='"3"')
    assert await main(small, to=place) == 0
    assert (await content(place))["small.txt"] == b"new!"


@pytest.mark.asyncio
async def test_a_bucket_may_get_decompressed_files(
    site: Any, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"s3://{bucket.rpartition('/')[2]}"
    how = {"encoding": "gzip", "etag": '"1"'}
    small = site.offer("/small.txt", gzip.compress(b"text"), **how)
    big = site.offer("/big.bin", gzip.compress(bytes(BIG)), **how)
    assert await main(small, big, to=place, decompress=True) == 0
    expected = {"small.txt": b"text", "big.bin": bytes(BIG)}
    assert await content(place) == expected
    site.offer("/big.bin", gzip.compress(bytes(BIG))[:-1], encoding="gzip", etag='"2"')
    assert await main(small, big, to=place, decompress=True, attempts=1) == 1
    assert "the compressed data is cut off" in capsys.readouterr().err
    assert await content(place) == expected
    assert site.count["/small.txt"] == 2


@pytest.mark.asyncio
async def test_a_missing_bucket_is_an_error(
    site: Any, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = site.offer("/small")
    big = site.offer("/big", bytes(BIG))
    assert await main(small, to="s3://no-such-bucket/prefix") == 1
    assert await main(big, to="s3://no-such-bucket") == 1
    reason = "the bucket does not exist: no-such-bucket"
    assert capsys.readouterr().err == f"{small}: {reason}\n{big}: {reason}\n"


@pytest.mark.asyncio
async def test_a_bucket_keeps_no_hidden_part_of_a_file_that_was_cut_or_cancelled(
    site: Any, bucket: str, session: aiohttp.ClientSession
) -> None:
    place = f"s3://{bucket.rpartition('/')[2]}"
    url = site.offer("/a.bin", bytes(2 * BIG), "cut", "stall")
    assert await main(url, to=place, attempts=1) == 1
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(main(url, to=place))
        await site.busy.wait()
        work.cancel()
    assert work.cancelled()
    async with session.get(f"{bucket}?uploads") as answer:
        assert "<Upload>" not in await answer.text()
    assert await content(place) == {}


@pytest.mark.asyncio
async def test_a_wrong_checksum_leaves_nothing_in_a_bucket(
    site: Any, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"s3://{bucket.rpartition('/')[2]}"
    listed = tmp_path / "urls.txt"
    url = site.offer("/a.bin", bytes(BIG))
    await asyncio.to_thread(listed.write_text, f"{url} sha256={'0' * 64}\n")
    assert await main(from_file=listed, to=place) == 1
    assert "sha256 is " in capsys.readouterr().err
    assert await content(place) == {}


@pytest.mark.asyncio
async def test_an_endpoint_without_encryption_is_explained(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert await main("http://h/a", to="s3://bucket") == 1
    assert capsys.readouterr().err == (
        "s3://bucket: AWS_ENDPOINT_URL is not encrypted (http://); "
        "set AWS_ALLOW_HTTP=true to allow it\n"
    )


# --- The README


def commands() -> list[list[str]]:
    """Return the arguments of the commands that the README shows."""
    lines = README.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        if line.startswith("uv run ") and ("://" in line or "--from-file" in line):
            found.append(shlex.split(line, comments=True)[3:])
    return found


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
@pytest.mark.asyncio
async def test_the_commands_in_the_readme_work(
    site: Any,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    """They run with the local site and the local bucket in place of real ones."""
    monkeypatch.chdir(tmp_path)
    root = str(site.server.make_url("/")).rstrip("/")
    for path in ("/a.png", "/b.png", "/big.iso", "/data.json"):
        site.offer(path)
    text = f"# pictures\n{root}/a.png\n{root}/b.png\n"
    await asyncio.to_thread(Path("urls.txt").write_text, text)
    arguments = [
        argument.replace("https://example.org", root).replace(
            "s3://bucket", f"s3://{bucket.rpartition('/')[2]}"
        )
        for argument in arguments
    ]
    app = cyclopts.App(exit_on_error=False, print_error=False)
    app.default(main)
    command, bound, _ = app.parse_args(arguments)
    assert await command(*bound.args, **bound.kwargs) == 0
    assert capsys.readouterr().out
