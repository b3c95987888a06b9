"""A site on a local port that can fail in many ways, and places to save its files."""

import asyncio
import os
import re
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from obstore.store import MemoryStore

from downloads.bucket import BucketStorage
from downloads.downloader import Downloader
from downloads.storage import FolderStorage, Storage

BIG = 3 * 2**20 + 1  # bytes; too large to be written by one call


@dataclass
class File:
    """A file on the site, and how the site serves it.

    `faults` says what goes wrong with the next requests, one fault per request:

    - a number: this HTTP status,
    - "busy": status 503 with `Retry-After: 40`,
    - "hang": no response,
    - "slow": the headers come after 5 s, and the second half of the body 5 s later,
    - "stall": the second half of the body comes when the site's `gate` opens,
    - "cut": the connection is closed in place of the second half,
    - "long": the body is one byte shorter than announced,
    - "chunked": the size is not announced.
    """

    body: bytes
    faults: deque[int | str] = field(default_factory=deque)
    etag: str | None = None
    last_modified: str | None = None
    ranges: bool = True  # whether the Range header is supported
    content_range: str | None = None  # sent in place of the right one
    encoding: str | None = None  # the Content-Encoding
    location: str | None = None  # a redirect

    def headers(self) -> dict[str, str]:
        """Return the headers that describe the file."""
        headers = {
            "ETag": self.etag,
            "Last-Modified": self.last_modified,
            "Content-Encoding": self.encoding,
        }
        return {name: value for name, value in headers.items() if value is not None}

    def offset(self, headers: CIMultiDict[str]) -> int:
        """Return where the response to a request with these headers starts."""
        match = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        is_same = headers.get("If-Range") in {self.etag, self.last_modified}
        if match is None or not is_same or not self.ranges:
            return 0
        return int(match[1])


class Site:
    """A web site with the files that a test has put there."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        # The headers of all requests, and their number for each path.
        self.requests: list[CIMultiDict[str]] = []
        self.urls: list[str] = []
        self.count: Counter[str] = Counter()
        self.active = 0
        self.peak = 0
        self.busy = asyncio.Event()  # set when the first half of a body was sent
        self.gate = asyncio.Event()
        application = web.Application()
        application.router.add_get("/{path:.*}", self.handle)
        self.server = TestServer(application)

    def offer(
        self, path: str, body: bytes = b"text", *faults: int | str, **how: object
    ) -> str:
        """Put a file on the site, and return its URL."""
        url = self.server.make_url(path)
        self.files[url.path] = File(body, deque(faults), **how)  # type: ignore[arg-type]
        return str(url)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(CIMultiDict(request.headers))
        self.urls.append(request.raw_path)
        self.count[request.path] += 1
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            return await self.answer(request)
        finally:
            self.active -= 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        file = self.files.get(request.path)
        if file is None:
            raise web.HTTPNotFound
        fault = file.faults.popleft() if file.faults else ""
        if isinstance(fault, int):
            return web.Response(status=fault)
        if fault == "busy":
            return web.Response(status=503, headers={"Retry-After": "40"})
        if file.location is not None:
            # Not HTTPFound, which would encode the URL again.
            return web.Response(status=302, headers={"Location": file.location})
        if file.etag is not None and request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "slow":
            await asyncio.sleep(5)
        return await self.send(request, file, fault)

    async def send(
        self, request: web.Request, file: File, fault: str
    ) -> web.StreamResponse:
        offset = file.offset(CIMultiDict(request.headers))
        if offset > 0 and offset >= len(file.body):
            return web.Response(status=416)
        body = file.body[offset:]
        response = web.StreamResponse(headers=file.headers())
        if offset > 0:
            response.set_status(206)
            whole = f"bytes {offset}-{len(file.body) - 1}/{len(file.body)}"
            response.headers["Content-Range"] = file.content_range or whole
        if fault != "chunked":
            response.content_length = len(body) + (1 if fault == "long" else 0)
        await response.prepare(request)
        half = len(body) // 2
        await response.write(body[:half])
        if fault == "stall":
            self.busy.set()
            await self.gate.wait()
        if fault == "slow":
            await asyncio.sleep(5)
        if fault != "cut":
            await response.write(body[half:])
        if fault in {"cut", "long"}:
            assert request.transport is not None
            request.transport.close()
        return response


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies, passwords or keys of the machine where the tests run."""
    for name in list(os.environ):
        if name.upper().startswith(("AWS_", "AZURE_", "GOOGLE_", "NETRC")):
            monkeypatch.delenv(name)
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    """A site that listens on a free port."""
    site = Site()
    async with site.server:
        yield site


@pytest.fixture
def offer(site: Site) -> Callable[..., str]:
    """`offer(path, body, *faults)` puts a file on the site and returns its URL."""
    return site.offer


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session that waits at most 30 s for a silent server."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(connect=30, sock_read=30),
        auto_decompress=False,
    ) as session:
        yield session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to save files in."""
    folder = tmp_path / "saved"
    folder.mkdir()
    return folder


@pytest.fixture
def open_folder() -> Iterator[Callable[[Path], FolderStorage]]:
    """`open_folder(path)` opens a storage, which is closed after the test."""
    with ExitStack() as opened:

        def open_folder(path: Path) -> FolderStorage:
            return opened.enter_context(closing(FolderStorage(path)))

        yield open_folder


@pytest.fixture(params=["folder", "bucket"])
def storage(
    request: pytest.FixtureRequest,
    folder: Path,
    open_folder: Callable[[Path], FolderStorage],
) -> Storage:
    """A place to save files in. Tests that use it run with each kind."""
    if request.param == "bucket":
        return BucketStorage(MemoryStore())
    return open_folder(folder)


@pytest.fixture
def downloader(session: aiohttp.ClientSession, storage: Storage) -> Downloader:
    """Downloads files into the storage."""
    return Downloader(session=session, storage=storage)


@pytest.fixture
def local(
    session: aiohttp.ClientSession,
    folder: Path,
    open_folder: Callable[[Path], FolderStorage],
) -> Downloader:
    """Downloads files into the folder."""
    return Downloader(session=session, storage=open_folder(folder))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a local server that speaks the protocol of S3."""
    try:
        server = import_module("moto.server").ThreadedMotoServer(
            "127.0.0.1", 0, verbose=False
        )
    except ImportError:
        missing = pytest.fail if os.environ.get("REQUIRE_SERVERS") else pytest.skip
        missing("moto is not installed; run `uv sync --group s3`")
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest_asyncio.fixture
async def bucket(
    s3: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address of an empty bucket on the S3 server; the environment has its keys."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    address = f"{s3}/bucket-{uuid.uuid4()}"
    async with session.put(address) as response:
        response.raise_for_status()
    return address


# --- For tests/test_main.py


@pytest.fixture
def working_args(offer: Callable[..., str], folder: Path) -> list[str]:
    """Arguments with which the program succeeds."""
    return [offer("/a.txt"), offer("/b.txt"), "--to", str(folder)]


@pytest.fixture
def failing_args(site: Site, folder: Path) -> list[str]:
    """Arguments with which it fails: one of the files does not exist."""
    missing = str(site.server.make_url("/missing.txt"))
    return [site.offer("/a.txt"), missing, "--to", str(folder)]


@pytest.fixture
def busy_args(offer: Callable[..., str], folder: Path) -> list[str]:
    """Arguments with which it waits for the second half of a file."""
    return [offer("/a.bin", bytes(BIG), "stall"), "--to", str(folder)]


@pytest.fixture
def until_busy(site: Site) -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Waits until the site has sent the first half of the file."""
    return lambda _stdout, _stderr: site.busy.wait()


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: the next run resumes."""
    return False
