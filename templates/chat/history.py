"""The last messages of a room, in memory: for newcomers, and for the bot."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(kw_only=True)
class Message:
    """A message of a person. `time` is in seconds since 1970, UTC."""

    name: str
    text: str
    time: float

    def as_data(self) -> dict[str, Any]:
        """Return the message as clients receive it."""
        return {"type": "message", **asdict(self)}


@dataclass(kw_only=True)
class Answer(Message):
    """What the bot says to the client `asker`; `text` grows until it is `finished`.

    `note` says why the answer ended, if it did not end by itself.
    """

    id: int
    asker: str
    finished: bool = False
    note: str = ""

    def as_data(self) -> dict[str, Any]:
        """Return the answer up to now, as clients receive it."""
        return {"type": "answer", **asdict(self)}


class History:
    """The last `max_messages` messages."""

    def __init__(self, max_messages: int) -> None:
        self._messages: deque[Message] = deque(maxlen=max_messages)

    def add(self, message: Message) -> None:
        """Remember a message, and forget the oldest one if there are too many."""
        self._messages.append(message)

    def newest(self, max_bytes: int) -> list[dict[str, Any]]:
        """Return the newest messages as data, of at most `max_bytes` as JSON.

        The oldest message comes first.
        """
        found: deque[dict[str, Any]] = deque()
        size = 0
        for message in reversed(self._messages):
            data = message.as_data()
            size += len(json.dumps(data)) + len(", ")
            if size > max_bytes:
                break
            found.appendleft(data)
        return list(found)

    def conversation(self, budget: int) -> Sequence[Message]:
        """Return the newest finished messages, of at most `budget` characters.

        The newest message is always there, the oldest one comes first.
        """
        found: deque[Message] = deque()
        size = 0
        for message in reversed(self._messages):
            if isinstance(message, Answer) and not message.finished:
                continue
            size += len(message.name) + len(": ") + len(message.text)
            if size > budget and found:
                break
            found.appendleft(message)
        return list(found)
