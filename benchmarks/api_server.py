"""What the API costs: CPU per request against the shortest form of the same endpoints,
500 requests in flight, and memory after 20,000 requests.

    uv run --group bench python benchmarks/api_server.py [--rounds 7] [--json FILE]

Each server is a process of its own under uvicorn, with a SQLite file of its own. Its
CPU time is what counts, not that of the client. The two servers take turns.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import harness
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from api_server.app import create_app, lifespan, listen, serve, url_of
from api_server.models import Base, Booking, Event
from api_server.schemas import BookingOut, EventOut, NewBooking
from api_server.store import BookingStore

SEATS = 10**9
GETS = 1000
POSTS = 500
CONNECTIONS = 8


# --- The servers, each in a process of its own


def bare_app(engine: AsyncEngine) -> FastAPI:
    """The same two endpoints in the shortest form.

    No limits, no idempotency, no retries; two bookings at once can sell a seat twice.
    """
    app = FastAPI()
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    Session = Annotated[AsyncSession, Depends(session)]  # noqa: N806 - a type

    @app.get("/events/{event_id}", response_model=EventOut)
    async def get_event(event_id: int, session: Session) -> Event:
        event = await session.get(Event, event_id)
        if event is None:
            raise HTTPException(404)
        return event

    @app.post("/events/{event_id}/bookings", response_model=BookingOut)
    async def book(event_id: int, new: NewBooking, session: Session) -> Booking:
        event = await session.get_one(Event, event_id, with_for_update=True)
        if event.seats_left < new.seats:
            raise HTTPException(409)
        event.seats_left -= new.seats
        booking = Booking(event_id=event_id, name=new.name, seats=new.seats)
        session.add(booking)
        await session.commit()
        return booking

    return app


async def serve_bare(file: str) -> None:
    """Serve the short form, by the same server."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        values = {"name": "Concert", "seats": SEATS, "seats_left": SEATS}
        await connection.execute(insert(Event).values(values))
    with listen("127.0.0.1", 0) as listener:
        print(url_of(listener), flush=True)
        await serve(bare_app(engine), listener)
    await engine.dispose()


async def serve_starter(file: str) -> None:
    """Serve the starter."""
    app = create_app(f"sqlite:///{file}")
    with listen("127.0.0.1", 0) as listener:
        async with lifespan(app):
            async with app.state.database.transaction() as session:
                await BookingStore(session).add_event("Concert", SEATS)
            print(url_of(listener), flush=True)
            await serve(app, listener)


async def serve_and_report(kind: str, file: str) -> None:
    """Serve; answer each line on stdin with CPU seconds and resident megabytes."""
    serving = asyncio.create_task(
        serve_bare(file) if kind == "bare" else serve_starter(file)
    )
    while await asyncio.to_thread(sys.stdin.readline):
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240
        resident = pages * resource.getpagesize() / 2**20
        print(time.process_time(), resident, flush=True)
    serving.cancel()
    await asyncio.wait([serving])


# --- The client, as cheap as can be


class Connection(asyncio.Protocol):
    """A connection that is kept alive. It has one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answer: asyncio.Future[int]
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, rest = head.lower().partition(b"content-length: ")
        length = int(rest.split(b"\r\n")[0])
        if len(body) >= length:
            self.received = b""
            self.answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionError("the server hung up"))

    async def send(self, request: bytes) -> int:
        """Send a request; return the status of the response."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


GET = b"GET /events/1 HTTP/1.1\r\nHost: api\r\n\r\n"


def post(path: str, body: dict[str, object], header: str = "") -> bytes:
    """Return a POST request with a JSON body."""
    data = json.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
        f"{header}Content-Length: {len(data)}\r\n\r\n{data}"
    ).encode()


BOOK = post("/events/1/bookings", {"name": "Ada", "seats": 1})


@dataclass
class Usage:
    """What a server has used up to now."""

    cpu: float
    megabytes: float


class Server:
    """A server process, and connections to it."""

    def __init__(self, process: Process, host: str, port: int) -> None:
        self.process = process
        self.host = host
        self.port = port

    async def connect(self) -> Connection:
        """Open a connection."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self.host, self.port)
        return connection

    async def usage(self) -> Usage:
        """Return what the server has used up to now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        cpu, megabytes = (await self.process.stdout.readline()).split()
        return Usage(float(cpu), float(megabytes))

    async def send_all(self, requests: list[bytes], connections: int) -> list[float]:
        """Send the requests; return the seconds that each one took."""
        pending = iter(requests)
        times = []

        async def work() -> None:
            connection = await self.connect()
            for request in pending:
                start = time.perf_counter()
                status = await connection.send(request)
                times.append(time.perf_counter() - start)
                assert status < 300, status
            connection.transport.abort()
            connection.answer.cancel()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(connections):
                tasks.create_task(work())
        return times

    async def cpu_per_request(self, requests: list[bytes], connections: int) -> float:
        """Return the CPU seconds of the server for one of these requests."""
        before = await self.usage()
        await self.send_all(requests, connections)
        after = await self.usage()
        return (after.cpu - before.cpu) / len(requests)


@asynccontextmanager
async def server(kind: str, folder: Path) -> AsyncIterator[Server]:
    """Start a server that has one event."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--serve", kind, "--file", folder / f"{kind}.db"),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        yield Server(process, host, int(port))
    finally:
        process.stdin.close()
        await process.wait()


# --- Figures


async def measure(rounds: int, folder: Path) -> dict[str, float]:
    """Return all figures."""
    figures: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        servers = {}
        for kind in ("bare", "starter"):
            servers[kind] = await stack.enter_async_context(server(kind, folder))
        # The short form cannot book concurrently: it would sell seats twice, or fail.
        for name, requests, connections in [
            ("get", [GET] * GETS, CONNECTIONS),
            ("book", [BOOK] * POSTS, 1),
        ]:
            costs: dict[str, list[float]] = {kind: [] for kind in servers}
            for turn in range(rounds + 1):
                for kind, one in servers.items():
                    cost = await one.cpu_per_request(requests, connections)
                    if turn > 0:
                        costs[kind].append(cost)
            bare = statistics.median(costs["bare"])
            starter = statistics.median(costs["starter"])
            figures[f"{name}_bare_us"] = bare * 1e6
            figures[f"{name}_starter_us"] = starter * 1e6
            figures[f"{name}_ratio"] = starter / bare
        figures |= await keyed(servers["starter"])
    async with server("starter", folder) as one:
        figures |= await crowd(one)
    async with server("starter", folder) as one:
        figures |= await memory(one)
    return figures


async def keyed(one: Server) -> dict[str, float]:
    """Return what a booking with an Idempotency-Key costs."""
    requests = []
    for number in range(POSTS):
        header = f"Idempotency-Key: {number}\r\n"
        requests.append(post("/events/1/bookings", {"name": "Ada"}, header))
    return {"book_with_key_us": await one.cpu_per_request(requests, 1) * 1e6}


async def crowd(one: Server) -> dict[str, float]:
    """Return the times of requests when 500 of them are in flight all the time."""
    requests = [GET, BOOK] * 2000
    times = sorted(await one.send_all(requests, connections=500))
    return {
        "500_in_flight_p50_ms": times[len(times) // 2] * 1e3,
        "500_in_flight_p99_ms": times[len(times) * 99 // 100] * 1e3,
    }


async def memory(one: Server) -> dict[str, float]:
    """Return the memory of a server after 2,000 requests and after 20,000."""
    await one.send_all([GET, BOOK] * 1000, CONNECTIONS)
    early = await one.usage()
    await one.send_all([GET, BOOK] * 9000, CONNECTIONS)
    late = await one.usage()
    return {
        "memory_after_2000_mb": early.megabytes,
        "memory_after_20000_mb": late.megabytes,
        "memory_growth_mb": late.megabytes - early.megabytes,
    }


def main() -> None:
    parser = harness.parser(__doc__, rounds=7)
    parser.add_argument("--serve", choices=["bare", "starter"], help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve_and_report(options.serve, options.file))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(options.rounds, Path(folder)))
    for name, figure in figures.items():
        print(f"{name:>28}  {figure:10.3f}")
    harness.keep(figures, options.json)


if __name__ == "__main__":
    main()
