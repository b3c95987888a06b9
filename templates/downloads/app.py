"""Download many files into a folder or a bucket.

A file appears only when it is complete. It is written in chunks while it arrives, so
large files need no more memory than small ones. An interrupted download is resumed,
even by a later run.
"""

import logging
import math
import os
import re
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated
from urllib.request import getproxies

import aiohttp
from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt
from multidict import CIMultiDict

from .downloader import Downloader, Result
from .progress import Progress
from .storage import in_thread, open_storage
from .text import mask_credentials, printable
from .url_list import Source, parse_url_list, without_duplicates

log = logging.getLogger(__name__)

READ_BUFFER = 2**20  # bytes per connection

# "Name: value". The name is a token of RFC 9110; the value is on one line.
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x1f\x7f]*)")


async def main(
    *urls: str,
    to: str = "downloads",
    from_file: Path | None = None,
    header: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    concurrency: PositiveInt = 8,
    attempts: PositiveInt = 5,
    timeout: PositiveFloat = 30.0,  # noqa: ASYNC109 - an option of the program
    overwrite: bool = False,
    decompress: bool = False,
) -> int:
    """Download files into a folder or a bucket, and print where each of them is.

    Args:
        urls: URLs to download. A file gets the last part of its URL's path as its name.
        to: Folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.
        from_file: File with more URLs, one per line. A URL may be followed by
            sha256=CHECKSUM.
        header: Header to send, as in "Authorization: Bearer x"; may be repeated.
        concurrency: Maximum number of operations at the same time.
        attempts: Maximum number of attempts. After progress, counting starts again.
        timeout: Time limit for one attempt, in seconds. It starts again when data
            arrives.
        overwrite: Download all files, even those that are up to date.
        decompress: Let servers compress files for the transfer (gzip, deflate), and
            store them decompressed.
    """
    try:
        sources = await read_sources(urls, from_file)
        headers = parse_headers(header)
    except ValueError as error:
        return fail(error)
    try:
        storage = await open_storage(to)
    except (OSError, ValueError) as error:
        return fail(to, reason(error))

    report = Report(to, total=len(sources))
    with closing(storage), report.progress:
        async with await open_session(headers, timeout) as session:
            downloader = Downloader(
                session=session,
                storage=storage,
                progress=report.progress,
                concurrency=concurrency,
                attempts=attempts,
                overwrite=overwrite,
                decompress=decompress,
            )
            await downloader.download_all(sources, report.add)
    report.log()
    return 1 if report.counts["failed"] else 0


class Report:
    """Prints and counts the results."""

    def __init__(self, to: str, total: int) -> None:
        self.to = mask_credentials(to)
        self.progress = Progress("files", total=total)
        self.counts = Counter({"saved": 0, "up to date": 0, "failed": 0})

    def add(self, result: Result) -> None:
        """Print where the file is, or why the download failed."""
        self.counts[result.status] += 1
        if result.error is None:
            print(f"{self.to}/{result.name}")
        else:
            fail(result.source.url, reason(result.error))
        self.progress.advance()

    def log(self) -> None:
        """Log the counts."""
        counts = [f"{count} {status}" for status, count in self.counts.items()]
        log.info(", ".join(counts))


def fail(*parts: object) -> int:
    """Print the parts of a message on stderr, on one line without credentials.

    Returns 1, the exit status.
    """
    readable = [printable(mask_credentials(part)) for part in parts]
    print(": ".join(readable), file=sys.stderr)
    return 1


def reason(error: Exception) -> str:
    """Return the message of an error; it is never empty."""
    if isinstance(error, aiohttp.ClientResponseError):
        if error.status == 0:
            return "too many redirects"
        return f"{error.status} {error.message}"
    return str(error) or repr(error)


# --- Options


async def read_sources(urls: tuple[str, ...], from_file: Path | None) -> list[Source]:
    """Return the sources for the URLs and for those in the file, without duplicates.

    Raises ValueError if there is no URL, or if the file cannot be read.
    """
    sources = [Source(url) for url in urls]
    if from_file is not None:
        try:
            text = await in_thread(from_file.read_text, encoding="utf-8-sig")
            sources += parse_url_list(text)
        except (OSError, ValueError) as error:
            raise ValueError(f"{from_file}: {reason(error)}") from None
    if not sources:
        raise ValueError("no URL to download; see --help")
    return without_duplicates(sources)


def parse_headers(lines: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the headers as pairs of a name and a value.

    Raises ValueError if one of the lines is not a valid header.
    """
    headers = []
    for line in lines:
        match = HEADER.fullmatch(line)
        if match is None:
            # The message does not show the header, which may contain a secret.
            raise ValueError('--header: not of the form "Name: value"')
        headers.append((match[1], match[2]))
    return headers


async def open_session(
    headers: list[tuple[str, str]],
    timeout: float,  # noqa: ASYNC109 - for the server, not for this function
) -> aiohttp.ClientSession:
    """Return a session that changes neither URLs nor bodies.

    `timeout` limits each wait for a connection or for data, in seconds.
    """
    limit = None if math.isinf(timeout) else timeout
    return aiohttp.ClientSession(
        headers=CIMultiDict(headers),
        timeout=aiohttp.ClientTimeout(connect=limit, sock_read=limit),
        connector=aiohttp.TCPConnector(limit=0),  # the downloader has its own limit
        read_bufsize=READ_BUFFER,
        # aiohttp would accept compressed data that was cut off; see responses.py.
        auto_decompress=False,
        # The URL of a redirect may be signed, so it must not change.
        requote_redirect_url=False,
        # To look up proxies and passwords, aiohttp uses two threads for each request.
        trust_env=await in_thread(has_proxies_or_netrc),
    )


def has_proxies_or_netrc() -> bool:
    """Return whether the environment names a proxy, or there is a .netrc file."""
    name = "_netrc" if sys.platform == "win32" else ".netrc"
    netrc = Path(os.environ.get("NETRC") or Path.home() / name)
    return bool(getproxies()) or netrc.is_file()
