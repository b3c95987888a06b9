"""Measure the time of 2,000 requests, against bare aiohttp, httpx2 and httpx.

    uv run --group bench python benchmarks/api_client.py

The API is a process of its own and responds to each request after 50 ms. With 100
concurrent requests, 2,000 requests take at least 1.00 s; this is the floor. Every
client reads and parses each response.
"""

import argparse
import asyncio
import logging
import selectors
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from api_client.app import fetch_data
from api_client.client import CatFact, Fact
from api_client.session import open_session

DELAY = 0.05  # seconds
CONCURRENCY = 100
BODY = b'{"fact": "Cats sleep for two thirds of their lives.", "length": 43}'
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)


class Api(asyncio.Protocol):
    """An HTTP server that waits and responds."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(data.count(b"\r\n\r\n")):
            loop.call_later(DELAY, self.transport.write, RESPONSE)


async def serve() -> None:
    """Serve on a free port, which is printed, until stdin ends."""
    server = await asyncio.get_running_loop().create_server(
        Api, "127.0.0.1", 0, backlog=1000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def get_many(count: int, get: Callable[[], Awaitable[bytes]]) -> None:
    """Get and parse `count` responses with `CONCURRENCY` workers."""
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            Fact.parse(await get())

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(worker())


async def with_api_client(url: str, count: int) -> None:
    async with open_session() as session:
        api = CatFact(session, url)
        facts, errors = await fetch_data(api, count, concurrency=CONCURRENCY)
    assert len(facts) == count, errors


async def with_bare_aiohttp(url: str, count: int) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def get() -> bytes:
            async with session.get(f"{url}/fact") as response:
                return await response.read()

        await get_many(count, get)


async def with_httpx2(url: str, count: int) -> None:
    import httpx2

    limits = httpx2.Limits(
        max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY
    )
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:

        async def get() -> bytes:
            response = await client.get(f"{url}/fact")
            return response.content

        await get_many(count, get)


async def with_httpx(url: str, count: int) -> None:
    import httpx

    # It is fastest with its default limits.
    async with httpx.AsyncClient(timeout=60) as client:

        async def get() -> bytes:
            response = await client.get(f"{url}/fact")
            return response.content

        await get_many(count, get)


def contestants() -> dict[str, Callable[[str, int], Awaitable[None]]]:
    """Return the clients by name, without those that are not installed."""
    clients: dict[str, Callable[[str, int], Awaitable[None]]] = {
        "api_client": with_api_client,
        "aiohttp, bare": with_bare_aiohttp,
        "httpx2": with_httpx2,
        "httpx": with_httpx,
    }
    for name in ("httpx2", "httpx"):
        if find_spec(name) is None:
            harness.skip(name, "it is not installed")
            del clients[name]
    return clients


async def measure(requests: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each client."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--serve",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    port = int(await server.stdout.readline())
    url = f"http://127.0.0.1:{port}"

    clients = contestants()
    times: dict[str, list[float]] = {name: [] for name in clients}
    for client in clients.values():
        # The warm-up.
        await client(url, CONCURRENCY)
    for _ in range(rounds):
        for name, client in clients.items():
            started = time.perf_counter()
            await client(url, requests)
            times[name].append(time.perf_counter() - started)

    server.stdin.close()
    await server.wait()
    return {name: statistics.median(taken) for name, taken in times.items()}


def select_loop() -> asyncio.SelectorEventLoop:
    """Return an event loop with exact timers for the API.

    With epoll, each wait of the loop is rounded up to a whole millisecond; with select
    it is not.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument(
        "--requests",
        type=int,
        default=2000,
        metavar="N",
        help="Number of requests in a round; 2000 by default.",
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with asyncio.Runner(loop_factory=select_loop) as runner:
            runner.run(serve())
        return

    logging.disable()
    medians = asyncio.run(measure(options.requests, options.rounds))
    floor = options.requests / CONCURRENCY * DELAY
    ratios = {name: taken / floor for name, taken in medians.items()}
    print(
        f"{options.requests} requests of 50 ms, {CONCURRENCY} at the same time; "
        f"floor {floor:.2f} s"
    )
    for name, taken in medians.items():
        print(f"{name:>14}  {taken:6.2f} s  {ratios[name]:6.2f} x the floor")
    harness.keep({"floor": floor, "seconds": medians, "ratios": ratios}, options.json)


if __name__ == "__main__":
    main()
