"""Measure the CPU time per delivered message, against a minimal aiohttp broadcast.

    uv run --group bench python benchmarks/chat.py

The server is a process of its own, and its own CPU time is measured. In each round
every talker sends 20 messages, and all clients receive all of them, in the same order.
With `--talkers 500` a round has 5 million deliveries, so use `--rounds 1`.

Also measures how much 50 clients that do not read slow down the others, the memory, and
the delay from a token of a model server to the clients: 100 clients receive an answer
of 300 tokens, one every 10 ms.
"""

import argparse
import asyncio
import json
import resource
import statistics
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from chat.limits import Limits
from chat.model import ModelOptions, open_model
from chat.room import Room
from chat.server import application

TURNS = 20
LISTENERS = 100
TOKENS = 300
TOKEN_INTERVAL = 0.01  # seconds
LIMITS = Limits(clients=2000, rate=10_000, history=50)


# --- The servers, each in a process of its own


def bare() -> web.Application:
    """Return a minimal broadcast, as in tutorials.

    It has no limits, and waits for each client in turn.
    """
    peers: set[web.WebSocketResponse] = set()

    async def join(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        peers.add(ws)
        name = request.query["name"]
        await ws.send_str(json.dumps({"type": "welcome", "name": name}))
        try:
            async for message in ws:
                words = json.loads(message.data)["text"]
                text = json.dumps({"type": "message", "name": name, "text": words})
                for peer in tuple(peers):
                    await peer.send_str(text)
        finally:
            peers.discard(ws)
        return ws

    app = web.Application()
    app.router.add_get("/ws", join)
    return app


async def serve(kind: str, model_url: str) -> None:
    """Serve one kind of room until stdin is closed."""
    if kind == "bare":
        await run(bare())
    elif kind == "room":
        await run(application(Room(LIMITS)))
    else:
        options = ModelOptions(model_url=model_url, model="clock")
        async with open_model(options, "") as reply:
            await run(application(Room(LIMITS, reply=reply)))


async def run(app: web.Application) -> None:
    """Serve until stdin ends; print the port first.

    For each line on stdin, print the CPU time in seconds and the peak memory in MB.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1000)
    await site.start()
    print(site.name.rpartition(":")[2], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.process_time(), memory, flush=True)
    await runner.cleanup()


async def send_tokens(request: web.Request) -> web.StreamResponse:
    """Answer as a model server does. Each token is the time at which it is sent."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(TOKENS):
        await asyncio.sleep(TOKEN_INTERVAL)
        choice = {"delta": {"content": f"{time.monotonic():.6f} "}}
        data = json.dumps({"choices": [choice]})
        await response.write(f"data: {data}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


# --- The clients, which use as little CPU time as possible


class Peer(asyncio.Protocol):
    """A WebSocket client that keeps the messages it receives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[bytes] = []
        self.delays: list[float] = []
        self.wanted = 0
        self.has_entered = asyncio.Event()
        self.has_enough = asyncio.Event()
        self._received = bytearray()
        self._is_upgraded = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        lines = [
            f"GET /ws?name={self.name} HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_upgraded:
            headers_end = self._received.find(b"\r\n\r\n")
            if headers_end < 0:
                return
            del self._received[: headers_end + 4]
            self._is_upgraded = True
        start = 0
        while True:
            end = frame_end(self._received, start)
            if end is None:
                break
            self._frame(bytes(self._received[start:end]))
            start = end
        del self._received[:start]

    def _frame(self, frame: bytes) -> None:
        self.has_entered.set()
        if b'"type": "message"' in frame:
            self.messages.append(frame)
            if len(self.messages) == self.wanted:
                self.has_enough.set()
        elif b'"type": "word"' in frame:
            sent = float(json.loads(frame[frame.index(b"{") :])["text"])
            self.delays.append(time.monotonic() - sent)
        elif b'"type": "end"' in frame:
            self.has_enough.set()

    def expect(self, count: int) -> None:
        """Forget the messages so far; set `has_enough` after the next `count`."""
        self.messages.clear()
        self.has_enough.clear()
        self.wanted = count

    def say(self, text: str) -> None:
        payload = json.dumps({"type": "message", "text": text}).encode()
        header = struct.pack("!BBHI", 0x81, 0x80 | 126, len(payload), 0)
        self.transport.write(header + payload)


def frame_end(data: bytearray, start: int) -> int | None:
    """Return where the frame at `start` ends, or None if it is not complete."""
    if len(data) < start + 10:
        return None
    length = data[start + 1]
    header = 2
    if length == 126:
        (length,) = struct.unpack_from("!H", data, start + 2)
        header = 4
    elif length == 127:
        (length,) = struct.unpack_from("!Q", data, start + 2)
        header = 10
    end = start + header + length
    return end if end <= len(data) else None


@dataclass
class Usage:
    """CPU time in seconds and peak memory in MB of a server."""

    cpu: float
    memory: float


@dataclass
class Round:
    """CPU time per delivery, and time until the last delivery, in seconds."""

    cpu_per_delivery: float
    seconds: float


class Crowd:
    """A server process and its clients."""

    def __init__(self, process: asyncio.subprocess.Process, peers: list[Peer]) -> None:
        self._process = process
        self.peers = peers

    async def usage(self) -> Usage:
        """Return the CPU time and memory of the server up to now."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"\n")
        cpu, memory = (await self._process.stdout.readline()).split()
        return Usage(cpu=float(cpu), memory=float(memory))

    async def round(self, talkers: int, size: int) -> Round:
        """Let some clients send messages of this size, in bytes, to all clients."""
        texts = []
        for number in range(talkers):
            begins = [f"{number:03} {turn:02} " for turn in range(TURNS)]
            texts.append([begin.ljust(size, "x") for begin in begins])
        for peer in self.peers:
            peer.expect(talkers * TURNS)
        before = await self.usage()
        started = time.perf_counter()
        for turn in range(TURNS):
            for peer, mine in zip(self.peers, texts, strict=False):
                peer.say(mine[turn])
        for peer in self.peers:
            await peer.has_enough.wait()
        seconds = time.perf_counter() - started
        after = await self.usage()
        self._check(texts)
        deliveries = talkers * TURNS * len(self.peers)
        return Round(
            cpu_per_delivery=(after.cpu - before.cpu) / deliveries, seconds=seconds
        )

    def _check(self, texts: list[list[str]]) -> None:
        """Assert that all clients have received all messages in the same order."""
        first = self.peers[0].messages
        for peer in self.peers:
            assert peer.messages == first, "the order differs between clients"
        received = [json.loads(frame[frame.index(b"{") :]) for frame in first]
        for peer, sent in zip(self.peers, texts, strict=False):
            found = [
                message["text"] for message in received if message["name"] == peer.name
            ]
            assert found == sent, "messages are missing or not in order"


@asynccontextmanager
async def crowd(
    kind: str, clients: int, stalled: int = 0, model_url: str = ""
) -> AsyncIterator[Crowd]:
    """Start a server, and connect clients to it. The last `stalled` do not read."""
    loop = asyncio.get_running_loop()
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, __file__, "--serve", kind, "--model-url", model_url]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin
    assert process.stdout
    port = int(await process.stdout.readline())
    peers = []
    for n in range(clients + stalled):
        make = partial(Peer, f"peer-{n:03}")
        _, peer = await loop.create_connection(make, "127.0.0.1", port)
        await peer.has_entered.wait()
        peers.append(peer)
    for peer in peers[clients:]:
        peer.transport.pause_reading()
    try:
        yield Crowd(process, peers[:clients])
    finally:
        for peer in peers:
            peer.transport.abort()
        process.stdin.close()
        await process.wait()


# --- The figures


async def measure_cost(options: argparse.Namespace) -> dict[str, float]:
    """Compare the CPU time of the room and of the minimal broadcast."""
    async with AsyncExitStack() as stack:
        bare_crowd = await stack.enter_async_context(crowd("bare", options.clients))
        room_crowd = await stack.enter_async_context(crowd("room", options.clients))
        bare_costs = []
        room_costs = []
        for turn in range(options.rounds + 1):
            bare_round = await bare_crowd.round(options.talkers, 80)
            room_round = await room_crowd.round(options.talkers, 80)
            # The first turn is the warm-up.
            if turn > 0:
                bare_costs.append(bare_round.cpu_per_delivery)
                room_costs.append(room_round.cpu_per_delivery)
        usage = await room_crowd.usage()
    bare_us = statistics.median(bare_costs) * 1e6
    room_us = statistics.median(room_costs) * 1e6
    return {
        "bare_us": bare_us,
        "room_us": room_us,
        "ratio": room_us / bare_us,
        "memory_mb": usage.memory,
    }


async def measure_stalled(options: argparse.Namespace) -> dict[str, float]:
    """Compare the room with and without 50 clients that do not read."""
    async with AsyncExitStack() as stack:
        crowds = {}
        times: dict[int, list[float]] = {}
        for stalled in (0, 50):
            entered = crowd("room", options.clients, stalled)
            crowds[stalled] = await stack.enter_async_context(entered)
            times[stalled] = []
        for turn in range(options.rounds + 1):
            for stalled, side in crowds.items():
                measured = await side.round(5, 1500)
                if turn > 0:
                    times[stalled].append(measured.seconds)
        figures = {}
        for stalled, side in crowds.items():
            usage = await side.usage()
            seconds = statistics.median(times[stalled])
            figures[f"seconds_with_{stalled}_stalled"] = seconds
            figures[f"memory_with_{stalled}_stalled_mb"] = usage.memory
    figures["stalled_ratio"] = (
        figures["seconds_with_50_stalled"] / figures["seconds_with_0_stalled"]
    )
    return figures


async def measure_delay() -> dict[str, float]:
    """Measure the time from a token of the model server to the frame of a client."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", send_tokens)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        entered = crowd("model", LISTENERS, model_url=f"{site.name}/v1")
        async with entered as listeners:
            listeners.peers[0].say("@bot What time is it?")
            for peer in listeners.peers:
                await peer.has_enough.wait()
            delays = [delay for peer in listeners.peers for delay in peer.delays]
    finally:
        await runner.cleanup()
    assert len(delays) == LISTENERS * TOKENS
    percentiles = statistics.quantiles(delays, n=100)
    return {
        "token_median_ms": percentiles[49] * 1000,
        "token_p99_ms": percentiles[98] * 1000,
    }


async def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return all figures."""
    figures = await measure_cost(options)
    figures |= await measure_stalled(options)
    figures |= await measure_delay()
    return figures


def main() -> None:
    parser = harness.parser(__doc__, rounds=7)
    parser.add_argument(
        "--clients",
        type=int,
        default=500,
        metavar="N",
        help="Number of clients; 500 by default.",
    )
    parser.add_argument(
        "--talkers",
        type=int,
        default=5,
        metavar="N",
        help="Number of clients that send messages; 5 by default.",
    )
    kinds = ["bare", "room", "model"]
    parser.add_argument("--serve", choices=kinds, help=argparse.SUPPRESS)
    parser.add_argument("--model-url", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.model_url))
        return
    figures = asyncio.run(measure(options))
    for name, figure in figures.items():
        print(f"{name:>28}  {figure:8.3f}")
    harness.keep(figures, options.json)


if __name__ == "__main__":
    main()
