"""What the chat room costs: against a bare aiohttp broadcast, with clients that do not
read, and in memory.

    uv run --group bench python benchmarks/chat.py [--clients 500] [--talkers 5]
    [--rounds 7] [--json FILE]

Each server is a process of its own, and its CPU time is what counts. In each round
every talker sends 20 messages and everybody hears all of them; that they arrive in one
order, and each talker's in its own, is checked byte by byte. `--talkers 500` is the
whole crowd talking at once: 5 million deliveries a round, so give it `--rounds 1`.
"""

import argparse
import asyncio
import json
import resource
import statistics
import struct
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates" / "chat"))

from app import Room

TURNS = 20


# The servers, each in a process of its own.


def bare() -> web.Application:
    """The broadcast of the tutorials: no limits, and everybody waits for everybody."""
    peers: set[web.WebSocketResponse] = set()

    async def join(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        peers.add(ws)
        await ws.send_str(
            json.dumps({"type": "welcome", "name": request.query["name"]})
        )
        try:
            async for message in ws:
                text = json.dumps(
                    {
                        "type": "message",
                        "name": request.query["name"],
                        "text": message.data,
                    }
                )
                for peer in tuple(peers):
                    await peer.send_str(text)
        finally:
            peers.discard(ws)
        return ws

    app = web.Application()
    app.router.add_get("/ws", join)
    return app


async def serve(kind: str) -> None:
    """Serve, and answer each line on stdin with the CPU seconds and the peak of memory
    (MB) up to now.
    """
    app = bare() if kind == "bare" else Room(clients=2000, rate=10_000).application()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0, backlog=1000)).start()
    print(site.port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(
            time.process_time(),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            flush=True,
        )
    await runner.cleanup()


# The clients, as cheap as can be.


class Peer(asyncio.Protocol):
    """A WebSocket client that keeps what it is sent, and says when it has so many
    bytes.
    """

    def __init__(self, name: str) -> None:
        self.name, self.got, self.wanted = name, bytearray(), 1
        self.enough = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"  # noqa: E501
        ask = f"GET /ws?name={self.name} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"  # noqa: E501
        transport.write((ask + key).encode())

    def data_received(self, data: bytes) -> None:
        self.got += data
        if b"\r\n\r\n" in self.got[:300]:
            del self.got[: self.got.index(b"\r\n\r\n") + 4]
        if len(self.got) >= self.wanted:
            self.enough.set()

    def expect(self, count: int) -> None:
        self.got.clear()
        self.enough.clear()
        self.wanted = count

    def say(self, text: str) -> None:
        self.transport.write(
            struct.pack("!BBHI", 0x81, 0x80 | 126, len(text), 0) + text.encode()
        )


def frames(data: bytes) -> list[dict[str, str]]:
    """Return the messages in a stream of frames."""
    found = []
    while data:
        length, start = (
            (data[1], 2) if data[1] < 126 else (struct.unpack_from("!H", data, 2)[0], 4)
        )
        found.append(json.loads(data[start : start + length]))
        data = data[start + length :]
    return found


class Crowd:
    """So many clients of one server, some of which do not read."""

    def __init__(self, process: asyncio.subprocess.Process, peers: list[Peer]) -> None:
        self._process, self._peers = process, peers

    async def ask(self) -> tuple[float, float]:
        """Return the server's CPU seconds and peak memory."""
        self._process.stdin.write(b"\n")  # type: ignore[union-attr]
        cpu, memory = (await self._process.stdout.readline()).split()  # type: ignore[union-attr]
        return float(cpu), float(memory)

    async def round(self, talkers: int, size: int) -> tuple[float, float]:
        """Let them talk; return the CPU seconds a delivery costs, and the seconds until
        all have heard all.
        """
        texts = [
            [f"{n:03} {turn:02} ".ljust(size, "x") for turn in range(TURNS)]
            for n in range(talkers)
        ]
        one = json.dumps({"type": "message", "name": "peer-000", "text": texts[0][0]})
        for peer in self._peers:
            peer.expect(talkers * TURNS * (len(one) + (2 if len(one) < 126 else 4)))
        before, started = (await self.ask())[0], time.perf_counter()
        for turn in range(TURNS):
            for peer, mine in zip(self._peers, texts, strict=False):
                peer.say(mine[turn])
        for peer in self._peers:
            await peer.enough.wait()
        took = time.perf_counter() - started
        cost = ((await self.ask())[0] - before) / (talkers * TURNS * len(self._peers))
        assert all(peer.got == self._peers[0].got for peer in self._peers), (
            "not in one order"
        )
        heard = frames(bytes(self._peers[0].got))
        for peer, mine in zip(self._peers, texts, strict=False):
            assert [it["text"] for it in heard if it["name"] == peer.name] == mine, (
                "not all, or not in order"
            )
        return cost, took


@asynccontextmanager
async def crowd(kind: str, clients: int, stalled: int = 0) -> Any:
    """Start a server, and let the clients in."""
    loop, pipe = asyncio.get_running_loop(), asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", kind, stdin=pipe, stdout=pipe
    )
    port = int(await process.stdout.readline())  # type: ignore[union-attr]
    peers = []
    for n in range(clients + stalled):
        _, peer = await loop.create_connection(
            partial(Peer, f"peer-{n:03}"), "127.0.0.1", port
        )
        await peer.enough.wait()
        peers.append(peer)
    for peer in peers[clients:]:
        peer.transport.pause_reading()
    try:
        yield Crowd(process, peers[:clients])
    finally:
        for peer in peers:
            peer.transport.abort()
        process.stdin.close()  # type: ignore[union-attr]
        await process.wait()


async def measure(options: argparse.Namespace) -> dict[str, float]:
    clients, talkers, rounds = options.clients, options.talkers, options.rounds
    async with AsyncExitStack() as stack:
        sides = {
            kind: await stack.enter_async_context(crowd(kind, clients))
            for kind in ("bare", "room")
        }
        costs: dict[str, list[float]] = {kind: [] for kind in sides}
        for turn in range(rounds + 1):
            for kind, side in sides.items():
                cost, _ = await side.round(talkers, 80)
                if turn:  # the first is the warm-up
                    costs[kind].append(cost)
        figures = {
            f"{kind}_us": statistics.median(taken) * 1e6
            for kind, taken in costs.items()
        }
        figures["ratio"] = figures["room_us"] / figures["bare_us"]
        figures["memory_mb"] = (await sides["room"].ask())[1]
    async with AsyncExitStack() as stack:
        sides = {
            str(n): await stack.enter_async_context(crowd("room", clients, n))
            for n in (0, 50)
        }
        times: dict[str, list[float]] = {kind: [] for kind in sides}
        for turn in range(rounds + 1):
            for kind, side in sides.items():
                _, took = await side.round(5, 1500)
                if turn:
                    times[kind].append(took)
        figures |= {
            f"seconds_with_{n}_stalled": statistics.median(taken)
            for n, taken in times.items()
        }
        figures["stalled_ratio"] = (
            figures["seconds_with_50_stalled"] / figures["seconds_with_0_stalled"]
        )
        figures["memory_with_0_stalled_mb"] = (await sides["0"].ask())[1]
        figures["memory_with_50_stalled_mb"] = (await sides["50"].ask())[1]
    return figures


def main() -> None:
    parser = harness.parser(__doc__, rounds=7)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--talkers", type=int, default=5)
    parser.add_argument("--serve", choices=["bare", "room"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return asyncio.run(serve(options.serve))
    figures = asyncio.run(measure(options))
    for name, figure in figures.items():
        print(f"{name:>28}  {figure:8.3f}")
    harness.keep(figures, options.json)


if __name__ == "__main__":
    main()
