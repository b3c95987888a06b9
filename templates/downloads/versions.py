"""Recognize the version of a file by the headers of the server's response.

The version decides whether a finished file is up to date, and whether a download can be
resumed. A file must never contain bytes of two versions.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

import aiohttp


@dataclass(frozen=True, kw_only=True)
class Version:
    """What a server says about a file. None means that the server did not say it.

    `url_sha256` is a hash of the URL, which may contain a password. `size` is the
    number of bytes that the server sends. `encoding` is the Content-Encoding, and
    `decompressed` whether the file is stored without it. `sha256` is the checksum of
    the stored file if it has been verified.
    """

    url_sha256: str
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    encoding: str | None = None
    decompressed: bool = False
    sha256: str | None = None

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, url: str) -> Self:
        """Return the version of a file that a response with status 200 contains."""
        return cls(
            url_sha256=hash_of_url(url),
            size=response.content_length,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
            encoding=content_encoding(response.headers),
        )

    @property
    def stored_size(self) -> int | None:
        """The size of the stored file in bytes; None if it is not known in advance."""
        return None if self.decompressed else self.size

    @property
    def validator(self) -> str | None:
        """The value for an If-Range header; None if this file cannot be resumed.

        A weak ETag (W/"...") does not promise that the bytes are the same. If a file is
        stored decompressed, the bytes that are missing cannot be requested.
        """
        if self.decompressed:
            return None
        if self.etag is None:
            return self.last_modified
        if self.etag.startswith("W/"):
            return None
        return self.etag

    def is_same_as(self, other: Self) -> bool:
        """Return whether the server sends the same bytes for both versions.

        Returns False if the server has sent neither size, ETag nor Last-Modified.
        """
        facts = (self.size, self.etag, self.last_modified)
        other_facts = (other.size, other.etag, other.last_modified)
        is_known = facts != (None, None, None)
        same_url = self.url_sha256 == other.url_sha256
        same_encoding = self.encoding == other.encoding
        return is_known and same_url and same_encoding and facts == other_facts

    def is_stored_with(self, *, decompress: bool) -> bool:
        """Return whether a run with this option stores the file in the same form."""
        return self.encoding is None or self.decompressed == decompress

    def to_json(self) -> str:
        """Return the version as a JSON object in ASCII."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self | None:
        """Return the version, or None if the text is not a version."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def content_encoding(headers: Mapping[str, str]) -> str | None:
    """Return the Content-Encoding of a response; None if it has none."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    return encoding


def hash_of_url(url: str) -> str:
    """Return the hash of a URL, which is stored in place of the URL."""
    return hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Part:
    """The beginning of a file, which an interrupted download has saved."""

    version: Version
    size: int  # bytes

    def can_resume(self, url: str) -> bool:
        """Return whether the rest can be requested from this URL."""
        version = self.version
        if version.validator is None or version.url_sha256 != hash_of_url(url):
            return False
        is_complete = version.size is not None and self.size >= version.size
        return self.size > 0 and not is_complete


class VersionLog:
    """The versions of the files in a folder. They are kept for later runs.

    The log is a file with a line for each new version: the name, a tab, and the version
    as JSON. If a name has several lines, the last one counts. One file that stays open
    is much faster than a file for each version.
    """

    def __init__(self, path: Path) -> None:
        """Read the log, or create it."""
        self._versions: dict[str, Version] = {}
        with path.open("a+b") as file:
            file.seek(0)
            line = b"\n"
            for line in file:
                self._add(line)
            if not line.endswith(b"\n"):
                # The program was killed, or the disk was full. The next line would
                # become a part of this one.
                file.write(b"\n")
        # Without a buffer, each line is written by one call. So the lines of several
        # threads or programs do not mix.
        self._file = FileIO(path, "ab")

    def _add(self, line: bytes) -> None:
        name, _, text = line.partition(b"\t")
        version = Version.from_json(text)
        if version is not None:
            self._versions[name.decode(errors="surrogateescape")] = version

    def get(self, name: str) -> Version | None:
        """Return the version of a file, or None if it is not known."""
        return self._versions.get(name)

    def set(self, name: str, version: Version) -> None:
        """Append the version of a file. Raises OSError."""
        line = f"{name}\t{version.to_json()}\n".encode(errors="surrogateescape")
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._versions[name] = version

    def close(self) -> None:
        """Close the log. No version can be set afterwards."""
        self._file.close()
