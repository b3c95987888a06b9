"""Read lists of URLs, and encode URLs for requests."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from yarl import URL

# These characters are allowed in a URL, besides letters and digits. All others are
# percent-encoded.
URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=-._~"

# The name of a checksum, and the whole checksum.
CHECKSUM_START = "sha256="
CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Source:
    """A file to download. `sha256` is its expected checksum in lower-case hex."""

    url: str
    sha256: str | None = None


def parse_url_list(text: str) -> list[Source]:
    """Return the sources in a list with one URL per line.

    Blank lines, and lines that begin with #, are ignored. A URL may be followed by a
    checksum, `sha256=` and 64 hexadecimal digits. Raises ValueError with the number of
    the line if a checksum is not valid.
    """
    sources = []
    # Not splitlines(), which also splits at characters that may occur in a URL.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            sources.append(parse_line(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return sources


def parse_line(line: str) -> Source:
    """Return the source on a line that is not blank and has no outer spaces."""
    words = line.rsplit(maxsplit=1)
    if not words[-1].startswith(CHECKSUM_START):
        return Source(line)
    checksum = CHECKSUM.fullmatch(words[-1])
    if checksum is None:
        raise ValueError("a checksum must be sha256= and 64 hexadecimal digits")
    if len(words) == 1:
        raise ValueError("a checksum without a URL")
    return Source(words[0], checksum[1].lower())


def without_duplicates(sources: Iterable[Source]) -> list[Source]:
    """Return the sources in their order, without repeated URLs.

    Raises ValueError if a URL has two checksums.
    """
    unique: dict[str, Source] = {}
    for source in sources:
        earlier = unique.setdefault(source.url, source)
        if earlier.sha256 is None:
            unique[source.url] = source
        elif source.sha256 not in {None, earlier.sha256}:
            raise ValueError(f"two checksums for {source.url}")
    return list(unique.values())


def encode_url(url: str) -> URL:
    """Return the URL to request, with the given path and query.

    Only characters that are not allowed in a URL, such as a space, are percent-encoded.
    All others stay as they are, since the signature of a signed URL depends on them.
    """
    parts = urlsplit(url)
    host = URL(f"{parts.scheme}://{parts.netloc}")  # encodes a host such as müller.de
    path = quote(parts.path, safe=URL_CHARACTERS)
    if parts.query:
        path += "?" + quote(parts.query, safe=URL_CHARACTERS)
    return URL(str(host).rstrip("/") + path, encoded=True)
