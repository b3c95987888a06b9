"""Text from outside: control characters and credentials."""

import pytest

from shared.text import mask_credentials, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cats sleep.\n", "Cats sleep. "),
        ("red \x1b[31m text", "red  [31m text"),
        ("two\u2028lines", "two lines"),
        ("half \ud83d", "half  "),
        # Format characters that the text needs: a Persian word, a family, a hyphen.
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧"),
        ("soft\u00adhyphen", "soft\u00adhyphen"),
    ],
)
def test_only_control_characters_are_replaced(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_anything_that_can_be_converted_to_text_is_printable() -> None:
    assert printable(ValueError("two\nlines")) == "two lines"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/a", "https://example.com/a"),
        ("https://ada:secret@example.com", "https://ada:***@example.com"),
        ("redis://:secret@localhost:6379/0", "redis://:***@localhost:6379/0"),
        ("nats://secret@localhost", "nats://***@localhost"),
        ("postgresql://ada:se@cr:et@db/x", "postgresql://ada:***@db/x"),
        ("http://h/a?token=secret&b=1", "http://h/a?token=***&b=1"),
        ("http://h/a?X-Amz-Signature=secret", "http://h/a?X-Amz-Signature=***"),
        ("ada:secret@proxy:3128", "ada:***@proxy:3128"),
        ("http://h/a@b?c=d@e", "http://h/a@b?c=d@e"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("mail ada@example.com", "mail ada@example.com"),
    ],
)
def test_credentials_in_urls_are_masked(url: str, expected: str) -> None:
    assert mask_credentials(url) == expected
    assert mask_credentials(f"cannot open {url} or {url}") == (
        f"cannot open {expected} or {expected}"
    )
