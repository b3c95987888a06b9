"""The tables. To serve something else, replace `Event` and `Booking`."""

from typing import Annotated
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only if the type of the column is INTEGER.
Number = Annotated[
    int,
    mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
]


class Base(DeclarativeBase):
    """The base of all tables. Its metadata is what Alembic compares a database with."""


class Event(Base):
    """An event, and how many of its seats are not booked yet."""

    __tablename__ = "events"
    # The last line of defence: even a bug in the program cannot oversell.
    __table_args__ = (CheckConstraint("seats_left BETWEEN 0 AND seats"),)

    id: Mapped[Number]
    name: Mapped[str]
    seats: Mapped[int]
    seats_left: Mapped[int]


class Booking(Base):
    """Seats of an event that are booked under a name.

    The id is random, so that it cannot be guessed.
    """

    __tablename__ = "bookings"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), index=True)
    name: Mapped[str]
    seats: Mapped[int]


class StoredAnswer(Base):
    """The answer to the first request with an Idempotency-Key.

    `expires_at` is in seconds since 1970. Status and body are 0 and empty only inside
    the transaction that is about to set them.
    """

    __tablename__ = "stored_answers"

    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status: Mapped[int]
    body: Mapped[str]
    expires_at: Mapped[float] = mapped_column(index=True)
