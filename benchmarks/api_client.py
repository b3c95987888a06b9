"""What the client costs: against the time the API itself takes, and beside httpx2 and
httpx.

    uv run --group bench python benchmarks/api_client.py [--requests 2000] [--rounds 5]
    [--json FILE]

The API answers each request after 50 ms, in a process of its own. With 100 requests at
a time 2,000 of them take 1.00 s at the least: that is the floor. All clients take turns
in one run, after a warm-up, and read and parse each answer.
"""

import argparse
import asyncio
import logging
import selectors
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import harness
import httpx
import httpx2

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1] / "templates" / "api_client")
)

from app import CatFact, Fact, fetch_data

DELAY, CONCURRENCY = 0.05, 100
BODY = b'{"fact": "Cats sleep for two thirds of their lives.", "length": 43}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)


class Api(asyncio.Protocol):
    """An HTTP server that does nothing but wait and answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            asyncio.get_running_loop().call_later(DELAY, self.transport.write, ANSWER)  # type: ignore[attr-defined]


async def serve() -> None:
    """Serve on a free port, which is printed, until stdin ends."""
    server = await asyncio.get_running_loop().create_server(
        Api, "127.0.0.1", 0, backlog=1000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def share(count: int, get: Callable[[], Awaitable[bytes]]) -> None:
    """Let as many workers as are allowed get and parse ``count`` answers."""
    turns = iter(range(count))

    async def work() -> None:
        for _ in turns:
            Fact.parse(await get())

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(work())


async def ours(url: str, count: int) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        facts, errors = await fetch_data(
            CatFact(session, url), count, concurrency=CONCURRENCY
        )
    assert len(facts) == count, errors


async def bare_aiohttp(url: str, count: int) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def get() -> bytes:
            async with session.get(f"{url}/fact") as response:
                return await response.read()

        await share(count, get)


async def with_httpx2(url: str, count: int) -> None:
    limits = httpx2.Limits(
        max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY
    )
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:

        async def get() -> bytes:
            return (await client.get(f"{url}/fact")).content

        await share(count, get)


async def with_httpx(url: str, count: int) -> None:
    async with httpx.AsyncClient(
        timeout=60
    ) as client:  # its own limits: they serve it best

        async def get() -> bytes:
            return (await client.get(f"{url}/fact")).content

        await share(count, get)


CLIENTS = {
    "api_client": ours,
    "aiohttp, bare": bare_aiohttp,
    "httpx2": with_httpx2,
    "httpx": with_httpx,
}


async def measure(requests: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each client."""
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", stdin=pipe, stdout=pipe
    )
    assert server.stdout is not None
    assert server.stdin is not None
    url = f"http://127.0.0.1:{int(await server.stdout.readline())}"
    times: dict[str, list[float]] = {name: [] for name in CLIENTS}
    for turn in range(rounds + 1):
        for name, client in CLIENTS.items():
            started = time.perf_counter()
            await client(
                url, requests if turn else CONCURRENCY
            )  # the first is the warm-up
            if turn:
                times[name].append(time.perf_counter() - started)
    server.stdin.close()
    await server.wait()
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        # epoll would round each 50 ms up to whole milliseconds; select does not
        with asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
        ) as runner:
            return runner.run(serve())
    logging.disable()
    medians = asyncio.run(measure(options.requests, options.rounds))
    floor = options.requests / CONCURRENCY * DELAY
    ratios = {name: taken / floor for name, taken in medians.items()}
    print(
        f"{options.requests} requests of 50 ms, {CONCURRENCY} at a time; floor {floor:.2f} s"  # noqa: E501
    )
    for name, taken in medians.items():
        print(f"{name:>14}  {taken:6.2f} s  {ratios[name]:6.2f} x the floor")
    harness.keep({"floor": floor, "seconds": medians, "ratios": ratios}, options.json)
    return None


if __name__ == "__main__":
    main()
