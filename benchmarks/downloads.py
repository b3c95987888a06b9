"""What a download costs: against a bare read to nowhere, against one file at a time,
and in memory.

    uv run --group bench python benchmarks/downloads.py [--rounds 31] [--json FILE]

The bare reads are what anybody writes, with aiohttp's own settings; one of them has the
starter's larger read buffer. The server and the memory run are processes of their own.
Everything is written to a folder on the disk; the many small files are also kept in
memory, as a disk that others use as well makes what the program itself costs invisible.
The small files are removed at the very end: for some seconds after thousands of files
are deleted, ext4 takes up to three times as long to make new ones, as it looks past
every inode that was freed a moment ago.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import aiohttp
import harness
from aiohttp import web
from obstore.store import LocalStore, MemoryStore, ObjectStore
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates" / "downloads"))

from app import Downloader

MB = 1_000_000


async def big(request: web.Request) -> web.StreamResponse:
    """Answer with 100 MB in blocks of 64 KiB."""
    response, block = (
        web.StreamResponse(headers={"Content-Length": str(100 * MB)}),
        bytes(1 << 16),
    )
    await response.prepare(request)
    for start in range(0, 100 * MB, len(block)):
        await response.write(block[: 100 * MB - start])
    return response


async def small(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with 10 kB after 5 ms; by hand, as it shares two cores with
    what is measured.
    """
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.005)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + bytes(10_000)
            )
    writer.close()


async def serve() -> None:
    """Print the ports of the two servers, and serve until stdin ends."""
    app = web.Application()
    app.router.add_get("/{n}", big)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    async with await asyncio.start_server(
        small, "127.0.0.1", 0, backlog=1000
    ) as by_hand:
        print(site.port, by_hand.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def bare(session: aiohttp.ClientSession, url: str, to: str = "/dev/null") -> None:
    with open(to, "wb") as file:  # noqa: ASYNC230  # nothing else is to be done
        async with session.get(url) as response:
            async for piece in response.content.iter_chunked(1 << 16):
                file.write(piece)


async def save(
    session: aiohttp.ClientSession,
    store: ObjectStore,
    urls: list[str],
    concurrency: int = 8,
) -> None:
    states = await Downloader(
        session, store, Progress(disable=True), concurrency
    ).save_all(urls, lambda *_: None)
    assert states["saved"] == len(urls), states


async def seconds(work: Awaitable[None]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


async def on_disk(work: Callable[[str], Awaitable[None]]) -> float:
    """Return the seconds of work in a new folder on the disk, without those to remove
    it.
    """
    with TemporaryDirectory() as folder:
        return await seconds(work(folder))


async def compare(rounds: int, *works: Callable[[], Awaitable[float]]) -> list[float]:
    """Return the medians of these works' seconds, run in turns, without the first
    round.
    """
    times = [[await work() for work in works] for _ in range(rounds + 1)]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


async def peak(root: str, big: int) -> float:
    """Return the program's peak memory in MB while it saves `big` files of 100 MB."""
    code = (
        "import asyncio, resource, sys; sys.path.insert(0, sys.argv[1]); from app import main;"  # noqa: E501
        "status = asyncio.run(main(*sys.argv[3:], to=sys.argv[2]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr); sys.exit(status)"  # noqa: E501
    )
    with TemporaryDirectory() as folder:
        urls = [f"{root}/{n}" for n in range(big)]
        command = [sys.executable, "-c", code, sys.path[0], folder, *urls]
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *command, stdout=nowhere, stderr=pipe
        )
        _, told = await process.communicate()
        assert process.returncode == 0, told
        return float(told)


async def measure(rounds: int) -> dict[str, float]:
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", stdin=pipe, stdout=pipe
    )
    assert server.stdout
    root, other = (
        f"http://127.0.0.1:{port.decode()}"
        for port in (await server.stdout.readline()).split()
    )
    thousand = [f"{other}/{n}" for n in range(1000)]
    async with (
        aiohttp.ClientSession() as plain,
        aiohttp.ClientSession(read_bufsize=2**20) as session,
    ):
        with TemporaryDirectory() as folder:

            def many(concurrency: int, *, disk: bool) -> Awaitable[float]:
                store = LocalStore(mkdtemp(dir=folder)) if disk else MemoryStore()
                return seconds(save(session, store, thousand, concurrency))

            one, all_, one_kept, all_kept = await compare(
                3,
                *(lambda: many(1, disk=True), lambda: many(32, disk=True)),
                *(lambda: many(1, disk=False), lambda: many(32, disk=False)),
            )
        nowhere, buffered, written, saved = await compare(
            rounds,
            lambda: seconds(bare(plain, f"{root}/1")),
            lambda: seconds(bare(session, f"{root}/1")),
            lambda: on_disk(lambda folder: bare(plain, f"{root}/1", f"{folder}/1")),
            lambda: on_disk(
                lambda folder: save(session, LocalStore(folder), [f"{root}/1"])
            ),
        )
    memory = {f"peak MB, {n} x 100 MB": await peak(root, n) for n in (1, 20)}
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


def main() -> None:
    parser = harness.parser(__doc__, rounds=31)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return asyncio.run(serve())
    figures = asyncio.run(measure(options.rounds))
    for name, figure in figures.items():
        print(f"{name:>32}  {figure:8.2f}")
    harness.keep(figures, options.json)


if __name__ == "__main__":
    main()
