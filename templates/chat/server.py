"""The web application: the page, the WebSocket and the health check."""

import asyncio
import logging
import secrets
import sys
from collections.abc import Collection
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .frames import RateLimiter
from .room import Client, Room
from .text import printable

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
CONTENT_SECURITY_POLICY = (
    "default-src 'nonce-{nonce}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
IDLE_TIMEOUT = 15  # seconds until a connection without a complete request is closed
HEARTBEAT = 30.0  # seconds between pings
MAX_SEND_BUFFER = 2**20  # bytes, of the operating system
MAX_FRAME_SIZE = 2**31 - 1  # bytes; aiohttp cannot count more
RETRY_AFTER = "10"  # seconds

ROOM = web.AppKey("room", Room)
ALLOWED_ORIGINS = web.AppKey("allowed_origins", Collection[str])


def application(room: Room, allowed_origins: Collection[str] = ()) -> web.Application:
    """Return the web application around a room.

    Pages of its own host may connect, and those of `allowed_origins`.
    """
    app = web.Application()
    app[ROOM] = room
    app[ALLOWED_ORIGINS] = {origin.rstrip("/").lower() for origin in allowed_origins}
    app.add_routes(
        [
            web.get("/", page),
            web.get("/ws", websocket),
            web.post("/ws", check),
            web.get("/healthz", health),
        ]
    )
    app.on_shutdown.append(close_room)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """Return what runs the application."""
    http_log = log.getChild("http")
    http_log.addFilter(shorten_bad_requests)
    return web.AppRunner(
        app,
        access_log=None,
        logger=http_log,
        keepalive_timeout=IDLE_TIMEOUT,
        shutdown_timeout=app[ROOM].limits.grace / 2,  # aiohttp waits this time twice
    )


def shorten_bad_requests(record: logging.LogRecord) -> bool:
    """Replace the traceback of a request that is not HTTP by one line.

    Every public server gets such requests.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.levelno = logging.INFO
        record.levelname = "INFO"
        record.msg = "bad request: %s"
        record.args = (printable(error.message)[:200],)
        record.exc_info = None
    return True


async def close_room(app: web.Application) -> None:
    """Evict all clients."""
    await app[ROOM].close()


async def page(_request: web.Request) -> web.Response:
    """Return the page. It runs no script but its own."""
    nonce = secrets.token_urlsafe()
    return web.Response(
        text=PAGE.replace("NONCE", nonce),
        content_type="text/html",
        headers={
            "Content-Security-Policy": CONTENT_SECURITY_POLICY.format(nonce=nonce),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        },
    )


async def health(request: web.Request) -> web.Response:
    """Return the number of clients."""
    return web.json_response({"status": "ok", "clients": request.app[ROOM].size})


async def check(request: web.Request) -> web.Response:
    """Return the status and the reason that a WebSocket would get now.

    Browsers do not show a page the reason for which its WebSocket was refused.
    """
    refuse_other_sites(request)
    refuse_if_full(request)
    return web.Response(status=204)


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Let a client enter the room."""
    room = request.app[ROOM]
    limits = room.limits
    refuse_other_sites(request)
    refuse_if_full(request)
    transport = request.transport
    if transport is None:
        raise web.HTTPServiceUnavailable(text="The connection is lost.")
    max_size = max_frame_size(limits.message_size)
    ws = web.WebSocketResponse(
        timeout=limits.grace / 2,
        heartbeat=HEARTBEAT,
        autoping=False,  # the room answers pings, and does not wait
        compress=False,
        max_msg_size=max_size,
        writer_limit=sys.maxsize,  # sending never waits: the room checks the buffer
    )
    name = room.names.take(request.query.get("name", ""))
    try:
        await ws.prepare(request)
        limit_send_buffer(transport, limits.outbox)
        client = Client(name=name, ws=ws, transport=transport)
        limit_rate(room, client, max_size)
        await room.serve(client)
    finally:
        room.names.release(name)
        if transport.get_write_buffer_size():
            # The client does not read; a polite close would never end.
            transport.abort()
    return ws


# --- Who may enter


def refuse_other_sites(request: web.Request) -> None:
    """Raise status 403 if a page of another site wants to open the WebSocket.

    Browsers always send the header Origin; other clients need not.
    """
    origin = request.headers.get("Origin", "").lower()
    host = request.host.lower()
    if origin == "" or origin.partition("://")[2] == host:
        return
    if origin in request.app[ALLOWED_ORIGINS]:
        return
    origin = printable(origin)[:200]
    log.warning(
        "refused a page of %s, because this server was addressed as %s; if the page is "
        "yours, start the server with --allowed-origin %s",
        origin,
        printable(host)[:200],
        origin,
    )
    raise web.HTTPForbidden(text=f"This server does not allow pages of {origin}.")


def refuse_if_full(request: web.Request) -> None:
    """Raise status 503 if the room is full."""
    if request.app[ROOM].is_full:
        raise web.HTTPServiceUnavailable(
            headers={"Retry-After": RETRY_AFTER}, text="The room is full."
        )


# --- Limits of one connection


def max_frame_size(message_size: int) -> int:
    """Return the maximum size of a frame, in bytes.

    JSON may write one byte as six (`\\u000a`), and there is something around the text.
    """
    return min(6 * message_size + 100, MAX_FRAME_SIZE)


def limit_rate(room: Room, client: Client, max_size: int) -> None:
    """Evict the client when it sends more or larger frames than allowed."""

    def evict(code: int, reason: str) -> None:
        room.evict(client, code, reason)

    protocol = cast(asyncio.Protocol, client.transport.get_protocol())
    client.transport.set_protocol(
        RateLimiter(protocol, rate=room.limits.rate, max_size=max_size, on_excess=evict)
    )


def limit_send_buffer(transport: asyncio.Transport, size: int) -> None:
    """Limit what the operating system buffers for a client that does not read."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(SOL_SOCKET, SO_SNDBUF, min(size, MAX_SEND_BUFFER))
