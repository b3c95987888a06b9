"""Parse JSON, and find objects in which a key occurs more than once.

JSON parsers keep the last value of such a key. In a load the other values would be
lost without a message, and one of them may be the right one.
"""

import json

from pydantic_core import from_json


class AmbiguousObject(dict[str, object]):
    """A JSON object in which a key occurs more than once, with its last value."""

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
    """Return the value of a JSON text. Its ambiguous objects are `AmbiguousObject`.

    Raises ValueError if the text is not JSON.
    """
    value = from_json(text)
    # Each key is followed by a colon. If all colons of the text belong to keys of the
    # object, none of its keys is repeated. This is so for most rows, and the parser
    # below takes four times as long.
    if isinstance(value, dict) and len(value) == text.count(b":"):
        return value
    return PARSER.decode(text.decode())


def make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object with these keys and values."""
    value = dict(pairs)
    if len(value) < len(pairs):
        return AmbiguousObject(pairs)
    return value


PARSER = json.JSONDecoder(object_pairs_hook=make_object)
