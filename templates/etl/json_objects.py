"""Parse JSON, and find objects in which a key occurs more than once.

JSON parsers keep the last value of such a key and drop the others without a message.
But it is not known which value is right, so such an object must not be loaded.
"""

import json

from pydantic_core import from_json

from .pipeline import Batch, Record, Reject


class AmbiguousObject(dict[str, object]):
    """A JSON object in which a key occurs more than once. It has the last value."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__()
        self.repeated = ""
        for key, value in pairs:
            if key in self:
                self.repeated = key
            self[key] = value

    def __str__(self) -> str:
        return f"the key {self.repeated} occurs more than once"


def parse_json(text: bytes) -> object:
    """Return the value of a JSON text.

    An object in which a key occurs more than once becomes an AmbiguousObject. Raises
    ValueError if the text is not JSON.
    """
    value = from_json(text)
    # Each key in the text is followed by a colon. If there are as many colons as keys
    # in the object, no key is repeated. Most rows end here, which saves time: the
    # parser below takes four times as long.
    if isinstance(value, dict) and len(value) == text.count(b":"):
        return value
    return PARSER.decode(text.decode())


def make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object that has these keys and values."""
    value = dict(pairs)
    if len(value) < len(pairs):
        return AmbiguousObject(pairs)
    return value


PARSER = json.JSONDecoder(object_pairs_hook=make_object)


def add_row(batch: Batch, line: int, raw: object, value: object) -> None:
    """Add a JSON value to the records of a batch, or to its rejects.

    It is rejected if it is an object in which a key occurs more than once.
    """
    if isinstance(value, AmbiguousObject):
        batch.rejects.append(Reject(line, raw, str(value)))
    else:
        batch.records.append(Record(line, raw, value))
