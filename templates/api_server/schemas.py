"""What clients send and get, as JSON. The examples are shown at /docs."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_SEATS = 100_000
MAX_ID = 2**63 - 1

# PostgreSQL cannot store the NUL character, so no control characters are accepted.
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x1f\x7f]+$",
    ),
]


class Input(BaseModel):
    """What a client sends. An unknown field is an error: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class Output(BaseModel):
    """What a client gets. It can be made from a row of the database."""

    model_config = ConfigDict(from_attributes=True)


class NewEvent(Input):
    """An event to be created."""

    name: Name = Field(examples=["Chamber concert"])
    seats: int = Field(ge=1, le=MAX_SEATS, examples=[120])


class EventOut(Output):
    """An event."""

    id: int = Field(examples=[1])
    name: str = Field(examples=["Chamber concert"])
    seats: int = Field(examples=[120])
    seats_left: int = Field(examples=[42])


class EventPage(Output):
    """Some events, in the order of their ids."""

    items: list[EventOut]
    next_cursor: int | None = Field(
        description="The `cursor` of the next page; null on the last page.",
        examples=[20],
    )


class NewBooking(Input):
    """Seats to be booked."""

    name: Name = Field(examples=["Ada Lovelace"])
    seats: int = Field(default=1, ge=1, le=MAX_SEATS, examples=[2])


class BookingOut(Output):
    """A booking."""

    id: UUID
    event_id: int = Field(examples=[1])
    name: str = Field(examples=["Ada Lovelace"])
    seats: int = Field(examples=[2])


class Health(Output):
    """The state of the program."""

    status: str = Field(examples=["ok"])
