"""The names of the people in a room: unique, printable and of limited length."""

import re
import unicodedata

from .text import printable

MAX_NAME_LENGTH = 20  # characters
DEFAULT_NAME = "guest"

# These change the direction of the text around them, so they could disguise a name.
DIRECTION_MARKS = dict.fromkeys(
    [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
# These are letters, marks or symbols, but nothing of them is visible.
INVISIBLE = dict.fromkeys(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0xFE00, 0xFE10),
    ]
)


def clean_name(requested: str) -> str:
    """Return `requested` as a name of one line and limited length.

    Format characters such as the zero-width joiner stay: emoji families and Persian
    words need them. A name of which nothing is visible becomes "guest".
    """
    visible = printable(requested).translate(DIRECTION_MARKS)
    name = " ".join(visible.split())[:MAX_NAME_LENGTH].strip()
    if comparison_key(name) == "":
        return DEFAULT_NAME
    return name


def comparison_key(name: str) -> str:
    """Return what names that look alike have in common.

    Compatibility forms (a fullwidth letter), upper and lower case, and invisible
    characters make no difference. Letters of different alphabets do, even if they look
    the same.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    text = unicodedata.normalize("NFKC", folded).translate(INVISIBLE)
    visible = [char for char in text if unicodedata.category(char) != "Cf"]
    return " ".join("".join(visible).split())


class Names:
    """The names that are in use, and the reserved ones, which no client can get."""

    def __init__(self, *reserved: str) -> None:
        self._reserved = {comparison_key(name) for name in reserved}
        self._used: set[str] = set()

    def __len__(self) -> int:
        """Return the number of names in use."""
        return len(self._used)

    def take(self, requested: str) -> str:
        """Return `requested`, or a similar name that is not in use; mark it as used."""
        name = clean_name(requested)
        if not self._is_free(name):
            name = self._numbered(name)
        self._used.add(comparison_key(name))
        return name

    def release(self, name: str) -> None:
        """Make the name available again."""
        self._used.discard(comparison_key(name))

    def _is_free(self, name: str) -> bool:
        key = comparison_key(name)
        return key not in self._used and key not in self._reserved

    def _numbered(self, name: str) -> str:
        # "Ann-2" becomes "Ann-3", not "Ann-2-2".
        base = re.sub(r"-\d+$", "", name)
        number = 2
        while True:
            suffix = f"-{number}"
            candidate = base[: MAX_NAME_LENGTH - len(suffix)] + suffix
            if self._is_free(candidate):
                return candidate
            number += 1
