"""The messages that a broker carries: jobs to the workers, results to the submitter.

Both are JSON, with every broker, also in memory. So a value that cannot travel fails in
the first test, and not when the broker's URL changes.
"""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from .text import printable

# Longer messages are refused. NATS refuses messages of more than 1,048,576 bytes by
# default. A task that makes more data stores it elsewhere and returns its address.
MAX_MESSAGE_BYTES = 1_000_000

MAX_ERROR_LENGTH = 2_000  # characters
MAX_ARGUMENT_LENGTH = 200  # characters, in log messages


class MessageError(ValueError):
    """A message cannot be sent, or what arrived is not a message."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to do a task.

    `inbox` is the submitter's, where the result goes. `attempt` counts from 1. A job
    whose worker dies is delivered again, and each delivery counts as one more attempt,
    until there have been `max_attempts`.
    """

    task: str
    argument: Any
    inbox: str
    attempt: int = 1
    max_attempts: int = 1
    id: str = field(default_factory=lambda: uuid4().hex)

    def __str__(self) -> str:
        """Return the task and its argument on one line, cut if it is long."""
        argument = repr(self.argument)
        if len(argument) > MAX_ARGUMENT_LENGTH:
            argument = argument[:MAX_ARGUMENT_LENGTH] + "..."
        return printable(f"{self.task}({argument})")

    def encode(self, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return the job as JSON. Raises MessageError, also over `limit` bytes."""
        data = {
            "id": self.id,
            "task": self.task,
            "argument": self.argument,
            "inbox": self.inbox,
            "attempt": self.attempt,
            "max_attempts": self.max_attempts,
        }
        return encode(data, f"the argument of {self.task}", limit)

    @classmethod
    def decode(cls, message: bytes) -> "Job":
        """Return the job in `message`. Raises MessageError if there is none."""
        data = decode(message)
        match data:
            case {
                "id": str(id_),
                "task": str(task),
                "argument": argument,
                "inbox": str(inbox),
                "attempt": int(attempt),
                "max_attempts": int(max_attempts),
            }:
                return cls(task, argument, inbox, attempt, max_attempts, id_)
        raise MessageError(f"not a job: {message[:80]!r}")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a job: a value, or the reason why there is none.

    `attempt` is the number of the attempt that ended with this result. `is_final` says
    that another attempt would fail in the same way.
    """

    job_id: str
    attempt: int
    value: Any = None
    error: str | None = None
    is_final: bool = False

    def encode(self, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return the result as JSON. Raises MessageError, also over `limit` bytes."""
        error = self.error
        if error is not None:
            error = error[:MAX_ERROR_LENGTH]
        data = {
            "job_id": self.job_id,
            "attempt": self.attempt,
            "value": self.value,
            "error": error,
            "is_final": self.is_final,
        }
        return encode(data, "the result", limit)

    @classmethod
    def decode(cls, message: bytes) -> "Result":
        """Return the result in `message`. Raises MessageError if there is none."""
        data = decode(message)
        match data:
            case {
                "job_id": str(job_id),
                "attempt": int(attempt),
                "value": value,
                "error": str() | None as error,
                "is_final": bool(is_final),
            }:
                return cls(job_id, attempt, value, error, is_final)
        raise MessageError(f"not a result: {message[:80]!r}")


def encode(data: dict[str, Any], what: str, limit: int) -> bytes:
    """Return `data` as JSON of at most `limit` bytes; `what` is for the error."""
    try:
        message = json.dumps(data, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(f"{what} is not JSON: {error}") from None
    if len(message) > limit:
        size = f"{len(message):,} bytes"
        raise MessageError(f"{what} has {size}, and the limit is {limit:,}")
    return message


def decode(message: bytes) -> object:
    """Return the value of a JSON message."""
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        raise MessageError(f"not JSON: {message[:80]!r}") from None
