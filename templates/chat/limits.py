"""The limits of a chat room, which are command-line options too."""

from dataclasses import dataclass, fields
from typing import Annotated

from cyclopts import Parameter, validators

MAX_LIMIT = 10**9  # operating systems do not accept much larger numbers
LIMIT = Parameter(validator=validators.Number(gt=0, lte=MAX_LIMIT))


@Parameter(name="*")
@dataclass(kw_only=True)
class Limits:
    """Raises ValueError unless each limit is above 0 and at most 10**9."""

    clients: Annotated[
        int, LIMIT, Parameter(help="Maximum number of clients in the room.")
    ] = 500
    message_size: Annotated[
        int, LIMIT, Parameter(help="Maximum size of a message, in bytes of UTF-8.")
    ] = 2000
    rate: Annotated[
        int, LIMIT, Parameter(help="Maximum number of frames per client and second.")
    ] = 10
    outbox: Annotated[
        int, LIMIT, Parameter(help="Maximum number of unsent bytes per client.")
    ] = 65536
    history: Annotated[
        int, LIMIT, Parameter(help="Maximum number of messages kept for newcomers.")
    ] = 50
    answers: Annotated[
        int, LIMIT, Parameter(help="Maximum number of answers at the same time.")
    ] = 4
    answer_time: Annotated[
        float, LIMIT, Parameter(help="Time limit for one answer, in seconds.")
    ] = 120.0
    answer_size: Annotated[
        int, LIMIT, Parameter(help="Maximum length of one answer, in characters.")
    ] = 8000
    grace: Annotated[
        float, LIMIT, Parameter(help="Time limit for the shutdown, in seconds.")
    ] = 5.0

    def __post_init__(self) -> None:
        invalid = []
        for field in fields(Limits):
            if not 0 < getattr(self, field.name) <= MAX_LIMIT:
                invalid.append(field.name)
        if invalid:
            names = ", ".join(invalid)
            raise ValueError(f"must be above 0, and at most 10**9: {names}")
