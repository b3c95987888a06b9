"""Requests that are repeated with the same Idempotency-Key."""

import asyncio
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from unittest.mock import AsyncMock, create_autospec

import httpx2
import pytest
import sqlalchemy as sa
from fastapi import Response

from api_server.app import lifespan
from api_server.database import (
    Database,
    UnavailableError,
    open_database,
)
from api_server.idempotency import (
    IdempotentRequest,
    KeyReusedError,
    purge_expired_keys,
)
from api_server.limits import Limits
from api_server.models import StoredAnswer
from api_server.schemas import EventOut, NewEvent
from api_server.store import BookingStore

PAYLOAD = NewEvent(name="Concert", seats=3)
DAY = 86400.0

OpenClient = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]
StartProgram = Callable[..., Awaitable[Process]]

# The program, but it hangs between the commit of a booking and the answer.
PROGRAM = f"""
import asyncio
import sys
from {lifespan.__module__} import create_app, lifespan, listen, serve, url_of


async def main():
    app = create_app(sys.argv[1])

    async def hanging_app(scope, receive, send):
        async def hanging_send(message):
            if "bookings" in scope["path"]:
                print("about to answer")
                await asyncio.Event().wait()
            await send(message)

        await app(scope, receive, hanging_send)

    with listen("127.0.0.1", 0) as listener:
        async with lifespan(app):
            print(url_of(listener))
            await serve(hanging_app, listener)


asyncio.run(main())
"""


async def add_event(client: httpx2.AsyncClient, seats: int = 10) -> int:
    """Create an event and return its id."""
    response = await client.post("/events", json={"name": "Concert", "seats": seats})
    event_id: int = response.json()["id"]
    return event_id


async def book(
    client: httpx2.AsyncClient, event_id: int, key: str, seats: int = 1
) -> httpx2.Response:
    """Book seats with an Idempotency-Key."""
    return await client.post(
        f"/events/{event_id}/bookings",
        json={"name": "Ada", "seats": seats},
        headers={"Idempotency-Key": key},
    )


async def seats_left(client: httpx2.AsyncClient, event_id: int) -> int:
    """Return how many seats are left."""
    response = await client.get(f"/events/{event_id}")
    left: int = response.json()["seats_left"]
    return left


# --- Through the API: in process and live, on SQLite and on PostgreSQL


@pytest.mark.asyncio
async def test_a_repeated_key_returns_the_first_answer(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=10)
    first = await book(client, event_id, "k")
    second = await book(client, event_id, "k")
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert await seats_left(client, event_id) == 9


@pytest.mark.asyncio
async def test_simultaneous_requests_with_one_key_book_once(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=10)
    responses = await asyncio.gather(*(book(client, event_id, "k") for _ in range(20)))
    assert {response.status_code for response in responses} == {201}
    assert len({response.content for response in responses}) == 1
    replayed = Counter("idempotency-replayed" in it.headers for it in responses)
    assert replayed == {False: 1, True: 19}
    assert await seats_left(client, event_id) == 9


@pytest.mark.asyncio
async def test_a_key_of_another_request_is_refused(client: httpx2.AsyncClient) -> None:
    event_id = await add_event(client)
    other_event = await add_event(client)
    await book(client, event_id, "k", seats=1)
    for response in [
        await book(client, event_id, "k", seats=2),
        await book(client, other_event, "k", seats=1),
    ]:
        assert response.status_code == 422
        detail = response.json()["detail"]
        assert detail == "This Idempotency-Key belongs to another request."
    assert await seats_left(client, event_id) == 9
    assert await seats_left(client, other_event) == 10


@pytest.mark.asyncio
async def test_sold_out_is_an_answer_that_is_repeated_too(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=1)
    booking = (await book(client, event_id, "first")).json()
    refused = await book(client, event_id, "second")
    assert refused.status_code == 409
    await client.delete(f"/bookings/{booking['id']}")
    repeated = await book(client, event_id, "second")
    assert repeated.status_code == 409
    assert repeated.content == refused.content
    assert repeated.headers["content-type"] == "application/problem+json"
    assert await seats_left(client, event_id) == 1


@pytest.mark.asyncio
async def test_a_key_that_is_empty_or_too_long_is_refused(
    client: httpx2.AsyncClient,
) -> None:
    for key in ["", "two words", "k" * 201]:
        response = await book(client, 1, key)
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "header.Idempotency-Key"


# --- A crash


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_server_killed_between_commit_and_answer_has_booked_once(
    serve_live: OpenClient, database_url: str, start_program: StartProgram
) -> None:
    process = await start_program(database_url, PROGRAM)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with httpx2.AsyncClient(base_url=url, timeout=None) as doomed:
        event_id = await add_event(doomed, seats=10)
        booking = asyncio.create_task(book(doomed, event_id, "k"))
        assert await process.stdout.readline() == b"about to answer\n"
        process.kill()
        with pytest.raises(httpx2.TransportError):
            await booking
    async with serve_live(database_url) as client:
        response = await book(client, event_id, "k")
        assert response.status_code == 201
        assert response.headers["idempotency-replayed"] == "true"
        assert await seats_left(client, event_id) == 9


# --- On a session: time, failures and cancellation


async def create(
    database: Database, *, now: float = 0.0, payload: NewEvent = PAYLOAD
) -> tuple[Response, int]:
    """Create an event with the key "k"; return the answer and the number of events."""
    async with database.transaction() as session:
        store = BookingStore(session)
        request = IdempotentRequest(
            session, "POST /events", "k", lifetime=DAY, clock=lambda: now
        )

        async def work() -> EventOut:
            event = await store.add_event(payload.name, payload.seats)
            return EventOut.model_validate(event)

        response = await request.answer(201, payload, work)
        events = await store.list_events(after=0, limit=100)
        return response, len(events)


async def create_in_vain(database: Database) -> None:
    """Use the key "k" for work that fails."""
    work = AsyncMock(spec=create, side_effect=UnavailableError("gone"))
    async with database.transaction() as session:
        request = IdempotentRequest(session, "POST /events", "k", DAY)
        await request.answer(201, PAYLOAD, work)


async def count_keys(database: Database) -> int:
    """Return the number of stored answers."""
    async with database.transaction() as session:
        query = sa.select(sa.func.count()).select_from(StoredAnswer)
        return await session.scalar(query) or 0


@pytest.mark.asyncio
async def test_an_expired_key_is_new_again(database_url: str) -> None:
    async with open_database(database_url, Limits()) as database:
        _, events = await create(database, now=0.0)
        assert events == 1
        _, events = await create(database, now=DAY - 1)
        assert events == 1
        other = NewEvent(name="Play", seats=5)
        with pytest.raises(KeyReusedError):
            await create(database, now=DAY - 1, payload=other)
        response, events = await create(database, now=DAY, payload=other)
        assert events == 2
        assert b"Play" in response.body
        # It has a whole lifetime again.
        _, events = await create(database, now=2 * DAY - 1, payload=other)
        assert events == 2


@pytest.mark.asyncio
async def test_work_that_fails_unexpectedly_leaves_the_key_unused(
    database_url: str,
) -> None:
    async with open_database(database_url, Limits()) as database:
        with pytest.raises(UnavailableError):
            await create_in_vain(database)
        assert await count_keys(database) == 0
        response, _ = await create(database)
        assert response.status_code == 201


@pytest.mark.asyncio
async def test_a_cancelled_request_leaves_its_key_and_its_work_or_neither(
    database_url: str,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    async with open_database(database_url, Limits()) as database:

        async def check() -> None:
            async with database.transaction() as session:
                events = await BookingStore(session).list_events(after=0, limit=10)
            assert len(events) == await count_keys(database)
            assert len(events) <= 1
            assert "Checked out connections: 0" in database.engine.pool.status()

        await cancel_everywhere(lambda: create(database), check)
        _, events = await create(database)
        assert events == 1


@pytest.mark.asyncio
async def test_expired_keys_are_deleted(database_url: str) -> None:
    async with open_database(database_url, Limits()) as database:
        await create(database, now=0.0)
        for now, left in [(DAY - 1, 1), (DAY, 0)]:
            purged = asyncio.Event()

            def clock(now: float = now, purged: asyncio.Event = purged) -> float:
                purged.set()
                return now

            purging = asyncio.create_task(purge_expired_keys(database, 0.001, clock))
            await purged.wait()
            # The clock is read before the keys are deleted.
            while await count_keys(database) != left:
                continue
            purging.cancel()
            await asyncio.wait([purging])


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_purging_continues_after_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = create_autospec(Database, instance=True)
    database.transaction.side_effect = UnavailableError("gone")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3.5 * 3600):
            await purge_expired_keys(database, DAY)
    assert database.transaction.call_count == 3
    assert caplog.messages == ["expired keys are kept for now: gone"] * 3
