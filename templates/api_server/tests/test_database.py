"""Transactions on SQLite and on PostgreSQL: conflicts, failures and cancellation."""

import asyncio
import random
import sqlite3
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest
import sqlalchemy as sa
from pytest_mock import MockerFixture
from sqlalchemy.exc import DBAPIError

from api_server.database import (
    ATTEMPTS,
    Database,
    UnavailableError,
    is_conflict,
    open_database,
    pause_after,
)
from api_server.limits import Limits
from api_server.models import Booking, Event
from api_server.store import BookingStore, SoldOutError

OpenClient = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]
Downtime = Callable[[], AbstractAsyncContextManager[None]]
StartProgram = Callable[..., Awaitable[Process]]

# A conflict with another transaction, without another transaction: the first inserts
# fail, as many as the sequence counts. A rollback does not reset a sequence.
FAILING_TRIGGER = """
CREATE SEQUENCE failures;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('failures') <= {count} THEN
        RAISE EXCEPTION 'made to fail' USING ERRCODE = '{state}';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail BEFORE INSERT ON bookings FOR EACH ROW EXECUTE FUNCTION fail();
"""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a database with the usual limits."""
    async with open_database(url, Limits()) as database:
        yield database


async def add_event(database: Database, seats: int) -> int:
    """Create an event and return its id."""
    async with database.transaction() as session:
        event = await BookingStore(session).add_event("Concert", seats)
        return event.id


async def book(database: Database, event_id: int, seats: int = 1) -> None:
    """Book seats in a transaction of its own."""
    async with database.transaction() as session:
        await BookingStore(session).book(event_id, "Ada", seats)


async def book_and_fail(database: Database, event_id: int) -> None:
    """Book a seat in a transaction that fails later."""
    async with database.transaction() as session:
        await BookingStore(session).book(event_id, "Ada", 1)
        raise ZeroDivisionError


async def book_and_lose_connection(database: Database, event_id: int) -> None:
    """Book a seat in a transaction whose connection PostgreSQL closes."""
    async with database.transaction() as session:
        await BookingStore(session).book(event_id, "Ada", 1)
        query = "SELECT pg_terminate_backend(pg_backend_pid())"
        await session.execute(sa.text(query))


async def make_inserts_fail(url: str, count: int, state: str) -> None:
    """Make the next `count` bookings fail with this SQLSTATE."""
    async with opened(url) as database, database.engine.begin() as connection:
        script = FAILING_TRIGGER.format(count=count, state=state)
        for statement in script.strip().split(";\nCREATE"):
            if not statement.startswith("CREATE"):
                statement = f"CREATE{statement}"
            await connection.exec_driver_sql(statement)


async def assert_balanced(database: Database) -> int:
    """Assert that seats sold and bookings agree; return how many seats are sold."""
    async with database.transaction() as session:
        booked = await session.scalar(sa.select(sa.func.sum(Booking.seats)))
        sold = await session.scalar(
            sa.select(sa.func.sum(Event.seats - Event.seats_left))
        )
    assert (booked or 0) == sold
    assert "Checked out connections: 0" in database.engine.pool.status()
    return sold or 0


# --- Nothing is half done


@pytest.mark.asyncio
async def test_a_booking_cancelled_at_any_await_is_made_completely_or_not_at_all(
    database_url: str, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async with opened(database_url) as database:
        event_id = await add_event(database, seats=1000)

        async def check() -> None:
            await assert_balanced(database)

        awaits = await cancel_everywhere(lambda: book(database, event_id), check)
        assert awaits > 3
        # The last run was not cancelled.
        assert await assert_balanced(database) >= 1


@pytest.mark.asyncio
async def test_an_error_rolls_the_transaction_back(database_url: str) -> None:
    async with opened(database_url) as database:
        event_id = await add_event(database, seats=3)
        with pytest.raises(ZeroDivisionError):
            await book_and_fail(database, event_id)
        assert await assert_balanced(database) == 0


@pytest.mark.asyncio
async def test_the_database_itself_does_not_oversell(database_url: str) -> None:
    async with opened(database_url) as database:
        event_id = await add_event(database, seats=3)
        with pytest.raises(sa.exc.IntegrityError):
            async with database.transaction() as session:
                await session.execute(sa.update(Event).values(seats_left=-1))
        with pytest.raises(SoldOutError):
            await book(database, event_id, seats=4)


@pytest.mark.asyncio
async def test_programs_that_start_together_create_the_tables_once(
    database_url: str,
) -> None:
    async def open_and_use() -> None:
        async with opened(database_url) as database:
            await add_event(database, seats=1)

    await asyncio.gather(*(open_and_use() for _ in range(5)))


# --- Several processes


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_two_processes_on_one_postgresql_sell_ten_seats_once(
    postgres_url: str, start_program: StartProgram
) -> None:
    processes = [await start_program(postgres_url) for _ in range(2)]
    urls = []
    for process in processes:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        urls.append(line.removeprefix("listening on "))
    async with opened(postgres_url) as database:
        event_id = await add_event(database, seats=10)
        async with httpx2.AsyncClient(timeout=60) as client:
            responses = await asyncio.gather(
                *(
                    client.post(
                        f"{urls[number % 2]}/events/{event_id}/bookings",
                        json={"name": f"guest {number}"},
                    )
                    for number in range(200)
                )
            )
        statuses = Counter(response.status_code for response in responses)
        assert statuses == {201: 10, 409: 190}
        assert await assert_balanced(database) == 10


# --- Conflicts


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.asyncio
async def test_a_conflict_in_postgresql_is_repeated(
    open_client: OpenClient, postgres_url: str, state: str
) -> None:
    await make_inserts_fail(postgres_url, ATTEMPTS - 1, state)
    async with open_client(postgres_url) as client:
        await client.post("/events", json={"name": "Concert", "seats": 3})
        response = await client.post("/events/1/bookings", json={"name": "Ada"})
        assert response.status_code == 201
        assert (await client.get("/events/1")).json()["seats_left"] == 2


@pytest.mark.asyncio
async def test_a_conflict_that_lasts_gets_503(
    open_client: OpenClient, postgres_url: str
) -> None:
    await make_inserts_fail(postgres_url, ATTEMPTS, "40001")
    async with open_client(postgres_url) as client:
        await client.post("/events", json={"name": "Concert", "seats": 3})
        response = await client.post("/events/1/bookings", json={"name": "Ada"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["detail"] == "The database is busy."
        assert (await client.get("/events/1")).json()["seats_left"] == 3


@pytest.mark.asyncio
async def test_a_busy_sqlite_file_is_repeated(
    open_client: OpenClient, sqlite_url: str, mocker: MockerFixture
) -> None:
    failed = asyncio.Event()

    def choose_pause(_low: float, _high: float) -> float:
        failed.set()
        return 0.2

    mocker.patch.object(random, "uniform", autospec=True, side_effect=choose_pause)
    async with open_client(f"{sqlite_url}?timeout=0.01") as client:
        async with opened(sqlite_url) as other, other.engine.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            request = asyncio.create_task(
                client.post("/events", json={"name": "Concert", "seats": 3})
            )
            await failed.wait()
        assert (await request).status_code == 201


def test_other_errors_are_no_conflicts() -> None:
    for original in [ValueError(), sqlite3.IntegrityError(), OSError()]:
        assert not is_conflict(DBAPIError("SELECT 1", None, original))


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = [max(pause_after(attempt) for _ in range(100)) for attempt in (1, 3, 20)]
    assert pauses[0] < 0.04
    assert pauses[0] < pauses[1] < 0.16
    assert pauses[1] < pauses[2] < 0.5


# --- A database that is not available


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_while_the_database_is_not_available_requests_get_503(
    open_client: OpenClient, postgres_url: str, downtime: Downtime
) -> None:
    async with open_client(postgres_url) as client:
        event = {"name": "Concert", "seats": 3}
        assert (await client.post("/events", json=event)).status_code == 201
        async with downtime():
            for response in [
                await client.post("/events", json=event),
                await client.get("/events/1"),
                await client.get("/readyz"),
            ]:
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                assert response.json()["detail"] == "The database is not available."
            assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        events = (await client.get("/events")).json()["items"]
        assert len(events) == 1


@pytest.mark.asyncio
async def test_a_connection_lost_in_a_transaction_rolls_it_back(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as database:
        event_id = await add_event(database, seats=3)
        with pytest.raises(UnavailableError):
            await book_and_lose_connection(database, event_id)
        assert await assert_balanced(database) == 0


@pytest.mark.parametrize(
    "url",
    ["sqlite:////no/such/folder/x.db", "postgresql://ann:secret@127.0.0.1:1/x"],
)
@pytest.mark.asyncio
async def test_a_database_that_cannot_be_opened_leaves_nothing_open(url: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        async with opened(url):
            pass
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
