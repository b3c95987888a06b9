"""The paths of the API, and what they depend on.

All dependencies are `async def`, even those that wait for nothing: FastAPI would run a
plain function in a thread.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from .database import Database, UnavailableError
from .idempotency import MAX_KEY_LENGTH, IdempotentRequest
from .limits import Limits
from .models import Event
from .problems import DOCUMENTATION
from .schemas import (
    MAX_ID,
    BookingOut,
    EventOut,
    EventPage,
    Health,
    NewBooking,
    NewEvent,
)
from .store import BookingStore

READY_TIMEOUT = 1.0  # seconds

router = APIRouter(responses=DOCUMENTATION)


# --- Dependencies


async def current_database(request: Request) -> Database:
    """The database, which was opened when the program started."""
    database: Database = request.app.state.database
    return database


async def current_limits(request: Request) -> Limits:
    """The limits, which are options of the program."""
    limits: Limits = request.app.state.limits
    return limits


async def current_session(
    database: Annotated[Database, Depends(current_database)],
) -> AsyncIterator[AsyncSession]:
    """A session for one request, in a transaction."""
    async with database.transaction() as session:
        yield session


# With scope="function", the transaction is committed before the answer is sent. By
# default, it is committed after the answer, and a client could get an answer for a
# booking that then fails.
Session = Annotated[AsyncSession, Depends(current_session, scope="function")]


async def current_store(session: Session) -> BookingStore:
    """The store, in the transaction of the request."""
    return BookingStore(session)


async def idempotent_request(
    request: Request,
    session: Session,
    limits: Annotated[Limits, Depends(current_limits)],
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="A repeated request with the same key does the work once.",
            min_length=1,
            max_length=MAX_KEY_LENGTH,
            pattern="^[!-~]+$",
        ),
    ] = None,
) -> IdempotentRequest:
    """The request, with its Idempotency-Key if it has one."""
    return IdempotentRequest(
        session=session,
        operation=f"{request.method} {request.url.path}",
        key=idempotency_key,
        lifetime=limits.key_lifetime,
    )


Store = Annotated[BookingStore, Depends(current_store)]
Idempotent = Annotated[IdempotentRequest, Depends(idempotent_request)]
EventId = Annotated[int, Path(ge=1, le=MAX_ID)]


# --- Events


@router.post("/events", status_code=201, response_model=EventOut)
async def create_event(new: NewEvent, store: Store, request: Idempotent) -> Response:
    """Create an event."""

    async def create() -> EventOut:
        event = await store.add_event(new.name, new.seats)
        return EventOut.model_validate(event)

    return await request.answer(201, new, create)


@router.get("/events")
async def list_events(
    store: Store,
    limits: Annotated[Limits, Depends(current_limits)],
    cursor: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
    limit: Annotated[int, Query(ge=1)] = 20,
) -> EventPage:
    """List events page by page, in the order of their ids.

    `cursor` is the `next_cursor` of the page before.
    """
    size = min(limit, limits.page_size)
    # One item more than the page has shows whether there is another page.
    events = await store.list_events(after=cursor, limit=size + 1)
    items = [EventOut.model_validate(event) for event in events[:size]]
    next_cursor = None
    if len(events) > size:
        next_cursor = items[-1].id
    return EventPage(items=items, next_cursor=next_cursor)


@router.get("/events/{event_id}", response_model=EventOut)
async def get_event(event_id: EventId, store: Store) -> Event:
    """Return an event."""
    return await store.get_event(event_id)


# --- Bookings


@router.post("/events/{event_id}/bookings", status_code=201, response_model=BookingOut)
async def create_booking(
    event_id: EventId, new: NewBooking, store: Store, request: Idempotent
) -> Response:
    """Book seats of an event. If too few are left, nothing is booked (409)."""

    async def book() -> BookingOut:
        booking = await store.book(event_id, new.name, new.seats)
        return BookingOut.model_validate(booking)

    return await request.answer(201, new, book)


@router.get("/bookings/{booking_id}")
async def get_booking(booking_id: UUID, store: Store) -> BookingOut:
    """Return a booking."""
    booking = await store.get_booking(booking_id)
    return BookingOut.model_validate(booking)


@router.delete("/bookings/{booking_id}", status_code=204)
async def cancel_booking(booking_id: UUID, store: Store) -> None:
    """Cancel a booking. Its seats can be booked again."""
    await store.cancel_booking(booking_id)


# --- Health checks


@router.get("/healthz")
async def healthz() -> Health:
    """Answer 200 if the process works."""
    return Health(status="ok")


@router.get("/readyz")
async def readyz(database: Annotated[Database, Depends(current_database)]) -> Health:
    """Answer 200 if the database answers in time, otherwise 503."""
    try:
        async with asyncio.timeout(READY_TIMEOUT):
            await database.ping()
    except TimeoutError:
        raise UnavailableError("The database does not answer.") from None
    return Health(status="ok")
