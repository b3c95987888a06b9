"""Measure downloads of large and of small files, against aria2c, wget and curl.

    uv run --group bench python benchmarks/downloads.py

The programs download 4 files of 100 MB and 1,000 files of 10 kB from nginx; the start
of the programs is included. A contestant that is not installed is skipped, and all of
them if nginx is not installed.

Also compares the downloader in this process with a bare read by aiohttp (once with
aiohttp's settings, once with the starter's larger read buffer), 32 downloads at a time
with one at a time, and measures the peak memory. Files are written to the disk; the
small ones are also kept in memory, because other programs that use the disk would hide
the cost of the program itself.

The small files are removed at the end: for some seconds after thousands of files are
deleted, ext4 takes up to three times as long to create new ones.
"""

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import aiohttp
import harness
from aiohttp import web
from obstore.store import MemoryStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))


from downloads.app import READ_BUFFER
from downloads.bucket import BucketStorage
from downloads.downloader import Downloader, Result
from downloads.storage import FolderStorage, Storage
from downloads.url_list import Source

TEMPLATES = sys.path[0]

MB = 1_000_000
BLOCK = bytes(2**16)

# The program as a process, started as a project's __main__.py starts it.
PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv.pop(1))
import cyclopts
from downloads.app import main
app = cyclopts.App()
app.default(main)
command, bound, _ = app.parse_args()
sys.exit(asyncio.run(command(*bound.args, **bound.kwargs)))
"""

# The same, and the most memory that it used, in MB.
PROGRAM_WITH_PEAK = (
    PROGRAM.replace("sys.exit(", "status = (")
    + """
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
sys.exit(status)
"""
)

NGINX_CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


# --- The server


async def large_file(request: web.Request) -> web.StreamResponse:
    """Answer with 100 MB."""
    response = web.StreamResponse(headers={"Content-Length": str(100 * MB)})
    await response.prepare(request)
    for start in range(0, 100 * MB, len(BLOCK)):
        await response.write(BLOCK[: 100 * MB - start])
    return response


async def small_files(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer each request with 10 kB after 5 ms.

    It uses no framework, because the server shares two cores with the downloader.
    """
    header = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.005)
            writer.write(header + bytes(10_000))
    writer.close()


async def serve() -> None:
    """Print the ports of both servers, and serve until stdin ends."""
    app = web.Application()
    app.router.add_get("/{name}", large_file)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = await asyncio.start_server(small_files, "127.0.0.1", 0, backlog=1000)
    async with server:
        print(site.port, server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


# --- The downloader in this process


async def bare_read(
    session: aiohttp.ClientSession, url: str, to: str = os.devnull
) -> None:
    with open(to, "wb") as file:  # noqa: ASYNC230 - nothing else runs
        async with session.get(url) as response:
            async for chunk in response.content.iter_chunked(len(BLOCK)):
                file.write(chunk)


async def save(
    session: aiohttp.ClientSession,
    storage: Storage,
    urls: list[str],
    concurrency: int = 8,
) -> None:
    downloader = Downloader(
        session=session,
        storage=storage,
        concurrency=concurrency,
    )
    results: list[Result] = []
    await downloader.download_all([Source(url) for url in urls], results.append)
    assert [result.status for result in results] == ["saved"] * len(urls)


async def seconds(work: Awaitable[None]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


async def on_disk(work: Callable[[str], Awaitable[None]]) -> float:
    """Return the seconds of work in a new folder, without those to remove it."""
    with TemporaryDirectory() as folder:
        return await seconds(work(folder))


async def compare(rounds: int, *works: Callable[[], Awaitable[float]]) -> list[float]:
    """Run the works in turns; return the median of the seconds of each.

    The first round is the warm-up.
    """
    times = [[await work() for work in works] for _ in range(rounds + 1)]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


async def peak(root: str, count: int) -> float:
    """Return the most memory, in MB, of a run that saves `count` files of 100 MB."""
    urls = [f"{root}/{number}" for number in range(count)]
    with TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM_WITH_PEAK, TEMPLATES),
            *(*urls, "--to", folder),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await process.communicate()
        assert process.returncode == 0, stderr
        return float(stderr)


async def measure(rounds: int) -> dict[str, float]:
    """Measure the downloader in this process, and its memory."""
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", stdin=pipe, stdout=pipe
    )
    assert server.stdout
    ports = (await server.stdout.readline()).decode().split()
    large, small = (f"http://127.0.0.1:{port}" for port in ports)
    thousand = [f"{small}/{number}" for number in range(1000)]
    async with (
        aiohttp.ClientSession() as plain,
        aiohttp.ClientSession(read_bufsize=READ_BUFFER) as session,
    ):
        with TemporaryDirectory() as folder:

            async def many(concurrency: int, *, disk: bool) -> float:
                storage: Storage = BucketStorage(MemoryStore())
                if disk:
                    storage = FolderStorage(Path(mkdtemp(dir=folder)))
                with closing(storage):
                    return await seconds(save(session, storage, thousand, concurrency))

            one, all_, one_kept, all_kept = await compare(
                3,
                lambda: many(1, disk=True),
                lambda: many(32, disk=True),
                lambda: many(1, disk=False),
                lambda: many(32, disk=False),
            )

        async def save_one(folder: str) -> None:
            with closing(FolderStorage(Path(folder))) as storage:
                await save(session, storage, [url])

        url = f"{large}/1"
        nowhere, buffered, written, saved = await compare(
            rounds,
            lambda: seconds(bare_read(plain, url)),
            lambda: seconds(bare_read(session, url)),
            lambda: on_disk(lambda folder: bare_read(plain, url, f"{folder}/1")),
            lambda: on_disk(save_one),
        )
    memory = {f"peak MB, {n} x 100 MB": await peak(large, n) for n in (1, 20)}
    await server.communicate(b"")
    return {
        "100 MB, bare read, s": nowhere,
        "100 MB, bare read with its buffer, s": buffered,
        "100 MB, bare read, written to the disk, s": written,
        "100 MB, saved, s": saved,
        "speed of bare (>= 0.6)": nowhere / saved,
        "speed of bare with its buffer": buffered / saved,
        "speed of bare, written to the disk": nowhere / written,
        "1,000 x 10 kB, one at a time, s": one,
        "1,000 x 10 kB, 32 at a time, s": all_,
        "times faster (>= 10)": one / all_,
        "the same in memory, one, s": one_kept,
        "the same in memory, 32, s": all_kept,
        "times faster in memory": one_kept / all_kept,
        **memory,
    }


# --- The program and its contestants


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX_CONFIGURATION.format(folder=folder, port=port))
    folder.chmod(0o755)  # nginx's worker may be another user
    server = subprocess.Popen(["nginx", "-c", configuration], stderr=subprocess.DEVNULL)
    try:
        wait_until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_until_open(port: int) -> None:
    """Return when a server accepts connections on a port."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def contestants() -> dict[str, list[str]]:
    """Return the commands that are installed, without the list and the folder."""
    commands = {
        "wget": ["wget", "--quiet", "--input-file={list}", "--directory-prefix={to}"],
        "aria2c": ["aria2c", "--quiet", "-j8", "--input-file={list}", "--dir={to}"],
        "curl": [
            *("curl", "--silent", "--parallel", "--parallel-max", "8"),
            *("--config", "{list}.curl", "--output-dir", "{to}"),
        ],
    }
    found = {"downloads": [sys.executable, "-c", PROGRAM, TEMPLATES]}
    found["downloads"] += ["--from-file", "{list}", "--to", "{to}"]
    for name, command in commands.items():
        if shutil.which(name):
            found[name] = command
        else:
            harness.skip(name, "it is not installed")
    return found


def run(command: list[str], urls: Path, folder: Path) -> float:
    """Return the seconds that a command needs to download a list to a new folder."""
    to = mkdtemp(dir=folder)
    words = [word.format(list=urls, to=to) for word in command]
    started = time.perf_counter()
    subprocess.run(
        words,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    duration = time.perf_counter() - started
    saved = [path for path in Path(to).iterdir() if path.is_file()]
    assert len(saved) == len(urls.read_text().splitlines()), command[0]
    return duration


def write_list(path: Path, urls: list[str]) -> None:
    """Write a list of URLs, and the same list for curl."""
    path.write_text("".join(f"{url}\n" for url in urls))
    lines = [f'url = "{url}"\nremote-name\n' for url in urls]
    path.with_name(path.name + ".curl").write_text("".join(lines))


def compete(title: str, count: int, size: int, rounds: int) -> dict[str, float]:
    """Let the program and its contestants download `count` files from nginx."""
    if not shutil.which("nginx"):
        harness.skip(title, "nginx is not installed")
        return {}
    figures: dict[str, float] = {}
    with TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        site.mkdir()
        Path(temporary).chmod(0o755)
        content = os.urandom(size)
        for number in range(count):
            (site / f"{number}.bin").write_bytes(content)
        with nginx(site) as address:
            urls = Path(temporary) / "urls.txt"
            write_list(urls, [f"{address}/{number}.bin" for number in range(count)])
            ways = {
                name: lambda command=command: run(command, urls, Path(temporary))
                for name, command in contestants().items()
            }
            times = harness.in_turns(rounds, ways)
    for name, durations in times.items():
        figures[f"{title}, {name}, s"] = statistics.median(durations)
    for name in times.keys() - {"downloads"}:
        ratio = figures[f"{title}, downloads, s"] / figures[f"{title}, {name}, s"]
        figures[f"{title}, times {name}'s"] = ratio
    return figures


def main() -> None:
    parser = harness.parser(__doc__, rounds=31)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--contestants",
        action="store_true",
        help="Only compare with other programs.",
    )
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    figures: dict[str, float] = {}
    if not options.contestants:
        figures |= asyncio.run(measure(options.rounds))
    figures |= compete("4 x 100 MB from nginx", 4, 100 * MB, min(5, options.rounds))
    figures |= compete("1,000 x 10 kB from nginx", 1000, 10_000, min(5, options.rounds))
    for name, figure in figures.items():
        print(f"{name:>42}  {figure:8.2f}")
    harness.keep(figures, options.json)


if __name__ == "__main__":
    main()
