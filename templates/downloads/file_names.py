"""Choose the name under which a file is saved: the last part of its URL's path."""

import os
from urllib.parse import unquote, urlsplit

# The folder in which a FolderStorage keeps its own files. No download may replace it.
STATE_FOLDER = ".downloads"

FORBIDDEN_NAMES = {"", ".", "..", STATE_FOLDER}

# With a separator, a name could point to another folder.
SEPARATORS = set("/\\")

# These have a meaning on Windows. For example, "a.txt:b" is a hidden part of "a.txt".
WINDOWS_SPECIAL = set('<>:"|?*')


class FileNames:
    """The names of all files of one run. No two URLs get the same name."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}

    def claim(self, url: str) -> str:
        """Return the file name for a URL.

        Raises ValueError if the name is not safe, or if another URL has the same name.
        """
        name = file_name(url)
        # The file system of Windows does not distinguish "A.txt" and "a.txt".
        owner = self._urls.setdefault(os.path.normcase(name), url)
        if owner != url:
            raise ValueError(f"{owner} has the same file name")
        return name


def file_name(url: str) -> str:
    """Return the last part of the URL's path, decoded.

    Raises ValueError if the URL is not an http(s) URL, or if the name is not safe.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an http(s) URL")
    name = unquote(parts.path.rpartition("/")[2])
    if not is_safe(name):
        raise ValueError(f"not a safe file name: {name!r}")
    return name


def is_safe(name: str) -> bool:
    """Return whether a file of this name stays in its folder and can be printed."""
    if name in FORBIDDEN_NAMES:
        return False
    forbidden = SEPARATORS
    if os.name == "nt":
        forbidden = SEPARATORS | WINDOWS_SPECIAL
    return name.isprintable() and forbidden.isdisjoint(name)
