"""Measure the CPU time per request, against a minimal FastAPI application.

    uv run --group bench python benchmarks/api_server.py

The minimal application has the same two endpoints without limits, retries and
idempotency. Each server is a process of its own under uvicorn with a SQLite file, and
its own CPU time is measured. Also measures the latency with 500 requests in flight, and
the memory after 2,000 and after 20,000 requests.
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
from contextlib import asynccontextmanager
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
    """Return a minimal application with the same two endpoints.

    It has no limits, idempotency or retries, and concurrent bookings can sell a seat
    twice.
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
    """Serve the minimal application with the server of the starter."""
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
    """Serve until stdin ends.

    For each line on stdin, print the CPU time in seconds and the resident memory in MB.
    """
    if kind == "bare":
        serving = asyncio.create_task(serve_bare(file))
    else:
        serving = asyncio.create_task(serve_starter(file))
    while await asyncio.to_thread(sys.stdin.readline):
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240
        resident = pages * resource.getpagesize() / 2**20
        print(time.process_time(), resident, flush=True)
    serving.cancel()
    await asyncio.wait([serving])


# --- The client, which uses as little CPU time as possible


class Connection(asyncio.Protocol):
    """A kept-alive connection for one request at a time."""

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
            self.answer.set_exception(
                exc or ConnectionError("the server closed the connection")
            )

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
    """CPU time in seconds and resident memory in MB that a server uses."""

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
        """Return the CPU time and memory up to now."""
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
        """Return the CPU time of the server per request, in seconds."""
        before = await self.usage()
        await self.send_all(requests, connections)
        after = await self.usage()
        return (after.cpu - before.cpu) / len(requests)


@asynccontextmanager
async def server(kind: str, folder: Path) -> AsyncIterator[Server]:
    """Start a server whose database has one event."""
    database = folder / f"{kind}.db"
    command = (sys.executable, __file__, "--serve", kind, "--file", database)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
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
    async with server("bare", folder) as bare, server("starter", folder) as starter:
        figures = await compare("get", bare, starter, rounds, [GET] * GETS, CONNECTIONS)
        # Over one connection only: the minimal application cannot handle concurrent
        # bookings, it would sell seats twice or fail.
        figures |= await compare("book", bare, starter, rounds, [BOOK] * POSTS, 1)
        figures |= await book_with_key(starter)
    async with server("starter", folder) as starter:
        figures |= await latency_under_load(starter)
    async with server("starter", folder) as starter:
        figures |= await memory(starter)
    return figures


async def compare(
    name: str,
    bare: Server,
    starter: Server,
    rounds: int,
    requests: list[bytes],
    connections: int,
) -> dict[str, float]:
    """Return the CPU time per request of both servers, which take turns."""
    bare_costs = []
    starter_costs = []
    for turn in range(rounds + 1):
        bare_cost = await bare.cpu_per_request(requests, connections)
        starter_cost = await starter.cpu_per_request(requests, connections)
        # The first turn is the warm-up.
        if turn > 0:
            bare_costs.append(bare_cost)
            starter_costs.append(starter_cost)
    bare_median = statistics.median(bare_costs)
    starter_median = statistics.median(starter_costs)
    return {
        f"{name}_bare_us": bare_median * 1e6,
        f"{name}_starter_us": starter_median * 1e6,
        f"{name}_ratio": starter_median / bare_median,
    }


async def book_with_key(one: Server) -> dict[str, float]:
    """Return the CPU time of a booking with an Idempotency-Key."""
    requests = []
    for number in range(POSTS):
        header = f"Idempotency-Key: {number}\r\n"
        requests.append(post("/events/1/bookings", {"name": "Ada"}, header))
    return {"book_with_key_us": await one.cpu_per_request(requests, 1) * 1e6}


async def latency_under_load(one: Server) -> dict[str, float]:
    """Return the latency with 500 requests in flight all the time."""
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
