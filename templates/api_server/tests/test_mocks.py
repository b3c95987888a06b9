"""AsyncMock and pytest-mock: what to replace in a web application, and how."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from unittest.mock import ANY, AsyncMock, MagicMock, call, create_autospec
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from pytest_mock import MockerFixture
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from api_server.app import create_app
from api_server.database import (
    ATTEMPTS,
    Database,
    UnavailableError,
)
from api_server.idempotency import IdempotentRequest
from api_server.models import Booking, Event
from api_server.routes import (
    READY_TIMEOUT,
    current_database,
    current_store,
)
from api_server.schemas import NewEvent
from api_server.store import BookingStore, SoldOutError

EVENT = Event(id=7, name="Concert", seats=10, seats_left=9)
BOOKING = Booking(id=UUID(int=5), event_id=7, name="Ada", seats=1)


class ConflictError(Exception):
    """What a driver raises if PostgreSQL aborts a transaction because of another."""

    sqlstate = "40001"


def returning(value: object) -> Callable[[], Awaitable[object]]:
    """Return a dependency that is always `value`.

    It is async, as what it replaces: FastAPI would run a plain function in a thread.
    """

    async def dependency() -> object:
        return value

    return dependency


@pytest.fixture
def store() -> MagicMock:
    """A store without a database. It has the methods of the real one, no others."""
    mock: MagicMock = create_autospec(BookingStore, instance=True)
    return mock


@pytest.fixture
def database() -> MagicMock:
    """A mocked database. Its transactions yield a mocked session."""
    mock: MagicMock = create_autospec(Database, instance=True)
    session = create_autospec(AsyncSession, instance=True)
    mock.transaction.return_value.__aenter__.return_value = session
    # Otherwise a mock would be returned, which is true: errors would be swallowed.
    mock.transaction.return_value.__aexit__.return_value = None
    return mock


@pytest.fixture
def app(store: MagicMock, database: MagicMock) -> FastAPI:
    """The application with two dependencies replaced. Its lifespan does not run."""
    app = create_app("sqlite:///unused.db")
    app.dependency_overrides[current_database] = returning(database)
    app.dependency_overrides[current_store] = returning(store)
    return app


@pytest.fixture
def client(app: FastAPI) -> httpx2.AsyncClient:
    """A client that calls the application without a network."""
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://api")


@pytest.mark.asyncio
async def test_a_mocked_store_returns_rows_that_need_no_database(
    client: httpx2.AsyncClient, store: MagicMock
) -> None:
    store.get_event.return_value = EVENT
    response = await client.get("/events/7")
    assert response.json() == {
        "id": 7,
        "name": "Concert",
        "seats": 10,
        "seats_left": 9,
    }
    store.get_event.assert_awaited_once_with(7)


@pytest.mark.asyncio
async def test_an_error_as_side_effect_becomes_the_response(
    client: httpx2.AsyncClient, store: MagicMock
) -> None:
    store.book.side_effect = SoldOutError("No seat is left.")
    response = await client.post("/events/7/bookings", json={"name": "Ada"})
    assert response.status_code == 409
    assert response.json()["detail"] == "No seat is left."
    store.book.assert_awaited_once_with(7, "Ada", 1)


@pytest.mark.asyncio
async def test_a_list_of_side_effects_is_a_conflict_and_then_a_success(
    client: httpx2.AsyncClient, store: MagicMock, mocker: MockerFixture
) -> None:
    mocker.patch.object(random, "uniform", autospec=True, return_value=0.0)
    conflict = DBAPIError("UPDATE", None, ConflictError())
    store.book.side_effect = [conflict, conflict, BOOKING]
    response = await client.post("/events/7/bookings", json={"name": "Ada"})
    assert response.status_code == 201
    assert store.book.await_args_list == [call(7, "Ada", 1)] * 3


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_pauses_between_attempts_take_no_real_time(
    client: httpx2.AsyncClient, store: MagicMock, mocker: MockerFixture
) -> None:
    mocker.patch.object(random, "uniform", autospec=True, return_value=1.5)
    store.book.side_effect = DBAPIError("UPDATE", None, ConflictError())
    response = await client.post("/events/7/bookings", json={"name": "Ada"})
    assert response.status_code == 503
    assert store.book.await_count == ATTEMPTS
    assert asyncio.get_running_loop().time() == pytest.approx(1.5 * ATTEMPTS)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_mock_that_hangs_shows_the_time_limit_of_the_readiness_check(
    client: httpx2.AsyncClient, database: MagicMock
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    database.ping.side_effect = hang
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "The database does not answer."
    assert asyncio.get_running_loop().time() == pytest.approx(READY_TIMEOUT)


@pytest.mark.asyncio
async def test_a_dependency_can_be_one_async_mock(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    database = AsyncMock(spec=Database)
    database.ping.side_effect = [UnavailableError("It restarts."), None]
    app.dependency_overrides[current_database] = returning(database)
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/readyz")).status_code == 200
    assert database.ping.await_count == 2


@pytest.mark.asyncio
async def test_a_spec_refuses_wrong_names_and_wrong_arguments(
    store: MagicMock,
) -> None:
    with pytest.raises(AttributeError, match="reserve"):
        await store.reserve(7)
    with pytest.raises(TypeError, match="missing a required argument"):
        await store.book(7)


@pytest.mark.asyncio
async def test_a_call_is_not_an_await(store: MagicMock) -> None:
    coroutine = store.get_event(7)
    store.get_event.assert_called_once_with(7)
    store.get_event.assert_not_awaited()
    coroutine.close()


@pytest.mark.asyncio
async def test_a_spy_watches_the_real_store(
    open_client: object, sqlite_url: str, mocker: MockerFixture
) -> None:
    spy = mocker.spy(BookingStore, "get_event")
    async with open_client(sqlite_url) as client:  # type: ignore[operator]
        response = await client.get("/events/7")
    assert response.status_code == 404
    spy.assert_awaited_once_with(ANY, 7)
    assert str(spy.spy_exception) == "There is no event 7."


@pytest.mark.asyncio
async def test_a_stub_shows_that_work_without_a_key_is_done_each_time(
    mocker: MockerFixture,
) -> None:
    session = create_autospec(AsyncSession, instance=True)
    work = mocker.async_stub()
    work.return_value = NewEvent(name="Concert", seats=3)
    request = IdempotentRequest(session, "POST /events", None, lifetime=60.0)
    for _ in range(2):
        await request.answer(201, NewEvent(name="Concert", seats=3), work)
    assert work.await_count == 2
    session.assert_not_called()
