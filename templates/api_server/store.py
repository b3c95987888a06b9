"""What the program does with the database. All methods run in one transaction."""

from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from .models import Booking, Event
from .problems import Problem


class NotFoundError(Problem):
    """There is no such event or booking."""

    status = 404


class SoldOutError(Problem):
    """An event has fewer seats left than wanted."""

    status = 409


class BookingStore:
    """Events and bookings, in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    # --- Events

    async def add_event(self, name: str, seats: int) -> Event:
        """Create an event."""
        event = Event(name=name, seats=seats, seats_left=seats)
        self._session.add(event)
        await self._session.flush()
        return event

    async def get_event(self, event_id: int) -> Event:
        """Return an event. Raises NotFoundError."""
        event = await self._session.get(Event, event_id)
        if event is None:
            raise NotFoundError(f"There is no event {event_id}.")
        return event

    async def list_events(self, *, after: int, limit: int) -> list[Event]:
        """Return the next `limit` events whose ids are greater than `after`."""
        query = select(Event).where(Event.id > after).order_by(Event.id).limit(limit)
        events = await self._session.scalars(query)
        return list(events)

    # --- Bookings

    async def book(self, event_id: int, name: str, seats: int) -> Booking:
        """Book seats of an event. Raises NotFoundError or SoldOutError.

        The database compares and subtracts in one statement, which locks the row of the
        event until the end of the transaction. To read the number first and write it
        later would sell a seat twice.
        """
        statement = (
            update(Event)
            .where(Event.id == event_id, Event.seats_left >= seats)
            .values(seats_left=Event.seats_left - seats)
            .returning(Event.id)
        )
        if await self._session.scalar(statement) is None:
            event = await self.get_event(event_id)
            raise SoldOutError(
                f"{event.seats_left} of {event.seats} seats are left, not {seats}."
            )
        booking = Booking(event_id=event_id, name=name, seats=seats)
        self._session.add(booking)
        await self._session.flush()
        return booking

    async def get_booking(self, booking_id: UUID) -> Booking:
        """Return a booking. Raises NotFoundError."""
        booking = await self._session.get(Booking, booking_id)
        if booking is None:
            raise NotFoundError(f"There is no booking {booking_id}.")
        return booking

    async def cancel_booking(self, booking_id: UUID) -> None:
        """Delete a booking; its seats are free again. Raises NotFoundError.

        Only one of two simultaneous calls deletes the row, and only that one returns
        the seats.
        """
        statement = (
            delete(Booking)
            .where(Booking.id == booking_id)
            .returning(Booking.event_id, Booking.seats)
        )
        deleted = (await self._session.execute(statement)).one_or_none()
        if deleted is None:
            raise NotFoundError(f"There is no booking {booking_id}.")
        await self._session.execute(
            update(Event)
            .where(Event.id == deleted.event_id)
            .values(seats_left=Event.seats_left + deleted.seats)
        )
