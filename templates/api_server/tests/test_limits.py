"""Limits: too many requests, too large ones, slow clients and clients that leave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from unittest.mock import create_autospec

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_server.app import create_app
from api_server.database import RetryMiddleware
from api_server.limits import Limits, LimitsMiddleware
from api_server.problems import ProblemMiddleware
from api_server.routes import current_store
from api_server.store import BookingStore

OpenClient = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


def client_of(app: FastAPI) -> httpx2.AsyncClient:
    """Return a client of an application without a server, and without its database."""
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://api")


def with_store(store: BookingStore, limits: Limits | None = None) -> FastAPI:
    """Return an application with this store in place of one in a database."""
    app = create_app("sqlite:///unused.db", limits)

    async def override() -> BookingStore:
        return store

    app.dependency_overrides[current_store] = override
    return app


def app_that_hangs(limits: Limits, busy: asyncio.Event) -> FastAPI:
    """Return an application that sets `busy` for each event, and then hangs."""
    store = create_autospec(BookingStore, instance=True)

    async def hang(_: int) -> None:
        busy.set()
        await asyncio.Event().wait()

    store.get_event.side_effect = hang
    return with_store(store, limits)


async def send_raw(client: httpx2.AsyncClient, request: bytes) -> asyncio.StreamWriter:
    """Open a connection to a live server and send bytes."""
    _, writer = await open_connection(client)
    writer.write(request)
    await writer.drain()
    return writer


async def open_connection(
    client: httpx2.AsyncClient,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to a live server."""
    url = client.base_url
    return await asyncio.open_connection(url.host, url.port)


def raw_booking(event_id: int, key: str) -> bytes:
    """Return a booking, as it goes over the network."""
    body = b'{"name": "Ada"}'
    head = (
        f"POST /events/{event_id}/bookings HTTP/1.1\r\n"
        f"Host: api\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# --- Too many, too large, too slow: without a network, and in no real time


@pytest.mark.asyncio
async def test_more_requests_than_allowed_get_503_with_retry_after() -> None:
    busy = asyncio.Event()
    async with client_of(app_that_hangs(Limits(concurrency=1), busy)) as client:
        first = asyncio.create_task(client.get("/events/1"))
        await busy.wait()
        response = await client.get("/events/1")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["detail"] == "Too many requests at the same time."
        # A health check is answered even then.
        assert (await client.get("/healthz")).status_code == 200
        first.cancel()
        await asyncio.wait([first])
        # The place is free again.
        busy.clear()
        second = asyncio.create_task(client.get("/events/1"))
        await busy.wait()
        second.cancel()
        await asyncio.wait([second])


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_request_that_takes_too_long_gets_503() -> None:
    limits = Limits(request_timeout=60.0)
    loop = asyncio.get_running_loop()
    async with client_of(app_that_hangs(limits, asyncio.Event())) as client:
        response = await client.get("/events/1")
    assert response.status_code == 503
    assert response.json()["detail"] == "No answer within 60 seconds."
    assert loop.time() == pytest.approx(60.0)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_sends_too_slowly_gets_408() -> None:
    async def slow_body() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield b"["
            await asyncio.sleep(10)

    app = create_app("sqlite:///unused.db", Limits(request_timeout=60.0))
    async with client_of(app) as client:
        response = await client.post("/events", content=slow_body())
    assert response.status_code == 408
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "The request did not arrive within 60 seconds."


@pytest.mark.asyncio
async def test_a_timeout_of_the_program_itself_is_not_taken_for_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = create_autospec(BookingStore, instance=True)
    store.get_event.side_effect = TimeoutError("of something else")
    async with client_of(with_store(store)) as client:
        response = await client.get("/events/1")
    assert response.status_code == 500
    assert "of something else" in caplog.text


@pytest.mark.asyncio
async def test_a_page_is_never_longer_than_the_limit(
    open_client: OpenClient, database_url: str
) -> None:
    async with open_client(database_url, Limits(page_size=2)) as client:
        for _ in range(3):
            await client.post("/events", json={"name": "Concert", "seats": 1})
        page = (await client.get("/events", params={"limit": 1000})).json()
    assert len(page["items"]) == 2
    assert page["next_cursor"] == page["items"][-1]["id"]


@pytest.mark.parametrize("value", [0, -1, 10**10, float("nan")])
def test_a_limit_must_be_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1000000000"):
        Limits(request_timeout=value)


@pytest.mark.asyncio
async def test_a_lifespan_message_passes_through_every_layer() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def no_receive() -> Message:
        raise AssertionError

    async def no_send(message: Message) -> None:
        raise AssertionError

    layers: list[ASGIApp] = [
        LimitsMiddleware(app, Limits()),
        ProblemMiddleware(app),
        RetryMiddleware(app),
    ]
    for layer in layers:
        await layer({"type": "lifespan"}, no_receive, no_send)
    assert seen == ["lifespan"] * 3


# --- Clients of a live server


@pytest.mark.asyncio
async def test_a_body_that_is_too_long_gets_413_in_one_piece_or_in_many(
    serve_live: OpenClient, sqlite_url: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"[" * 50

    bodies: list[bytes | AsyncIterator[bytes]] = [b"[" * 101, pieces()]
    async with serve_live(sqlite_url, Limits(body_size=100)) as client:
        for body in bodies:
            response = await client.post("/events", content=body)
            assert response.status_code == 413
            assert response.headers["content-type"] == "application/problem+json"
            detail = response.json()["detail"]
            assert detail == "The body is longer than 100 bytes."
        fits = await client.post("/events", content=b"[" * 100)
        assert fits.status_code == 422


@pytest.mark.asyncio
async def test_a_client_that_leaves_in_the_middle_of_its_request_books_nothing(
    serve_live: OpenClient, database_url: str
) -> None:
    async with serve_live(database_url) as client:
        await client.post("/events", json={"name": "Concert", "seats": 3})
        writer = await send_raw(client, raw_booking(1, "k")[:-1])
        writer.close()
        await writer.wait_closed()
        assert (await client.get("/events/1")).json()["seats_left"] == 3


@pytest.mark.asyncio
async def test_a_client_that_leaves_before_its_answer_has_booked_once(
    serve_live: OpenClient, database_url: str
) -> None:
    async with serve_live(database_url) as client:
        await client.post("/events", json={"name": "Concert", "seats": 3})
        writer = await send_raw(client, raw_booking(1, "k"))
        writer.transport.abort()
        repeated = await client.post(
            "/events/1/bookings",
            json={"name": "Ada"},
            headers={"Idempotency-Key": "k"},
        )
        assert repeated.status_code == 201
        assert (await client.get("/events/1")).json()["seats_left"] == 2


@pytest.mark.asyncio
async def test_a_slow_client_does_not_hold_up_the_others(
    serve_live: OpenClient, database_url: str
) -> None:
    # One connection to the database, and more slow clients than that.
    async with serve_live(database_url, Limits(pool_size=1)) as client:
        await client.post("/events", json={"name": "Concert", "seats": 3})
        writers = []
        for number in range(10):
            writer = await send_raw(client, raw_booking(1, f"{number}")[:-1])
            writers.append(writer)
        response = await client.post("/events/1/bookings", json={"name": "Bob"})
        assert response.status_code == 201
        for writer in writers:
            writer.close()
            await writer.wait_closed()


@pytest.mark.asyncio
async def test_a_client_that_reads_nothing_does_not_hold_up_the_others_or_the_end(
    serve_live: OpenClient, sqlite_url: str
) -> None:
    async with serve_live(sqlite_url, Limits(page_size=1000)) as client:
        for _ in range(20):
            await client.post("/events", json={"name": "x" * 100, "seats": 1})
        reader, writer = await open_connection(client)
        # It requests megabytes, until the server can send no more.
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        request = b"GET /events HTTP/1.1\r\nHost: api\r\n\r\n"
        writer.write(request * 5000)
        response = await client.get("/events/1")
        assert response.status_code == 200
        writer.transport.abort()
