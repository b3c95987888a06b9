"""Understand the response to a download request, and read its body completely."""

import hashlib
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Self

import aiohttp

from .storage import in_thread
from .versions import Part, Version

CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class IncompleteError(aiohttp.ClientPayloadError):
    """A response lacks bytes that it should contain. The next one may have them."""


class ChecksumError(ValueError):
    """A file does not have the expected checksum."""


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raise aiohttp.ClientError unless the response contains a whole file."""
    response.raise_for_status()
    if response.status != HTTPStatus.OK:
        raise aiohttp.ClientError(
            f"{response.status} {response.reason}: not a whole file"
        )


def resume_headers(part: Part) -> dict[str, str]:
    """Return the headers of a request for the rest of a file.

    Because of If-Range, the server sends the whole file if it has changed. Raises
    ValueError if the part cannot be resumed.
    """
    validator = part.version.validator
    if validator is None:
        raise ValueError("without a validator, the rest may belong to another version")
    return {"Range": f"bytes={part.size}-", "If-Range": validator}


def is_answer_to_range(response: aiohttp.ClientResponse) -> bool:
    """Return whether the server has tried to send a part of a file."""
    return response.status in {
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }


def check_range(response: aiohttp.ClientResponse, part: Part) -> None:
    """Raise IncompleteError unless the response contains the rest of the file."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        raise IncompleteError("the server cannot send the rest of the file")
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise IncompleteError("the server sent a part without its position")
    start = int(match[1])
    total = int(match[2])
    if start != part.size or part.version.size not in {None, total}:
        raise IncompleteError("the server sent another part of the file")
    # A response with a part may omit these.
    etag = response.headers.get("ETag", part.version.etag)
    last_modified = response.headers.get("Last-Modified", part.version.last_modified)
    if (etag, last_modified) != (part.version.etag, part.version.last_modified):
        raise IncompleteError("the server sent a part of another version")


def is_unchanged(response: aiohttp.ClientResponse, known: Version, url: str) -> bool:
    """Return whether the server still has a version that is known."""
    if response.status == HTTPStatus.NOT_MODIFIED:
        return known.etag is not None  # only then the request was conditional
    return response.status == HTTPStatus.OK and known.is_same_as(
        Version.of(response, url)
    )


class Checksum:
    """Computes the checksum of a file while its chunks arrive."""

    def __init__(self, expected: str, digest: "hashlib._Hash") -> None:
        """`digest` already contains what was saved earlier."""
        self.expected = expected
        self._digest = digest

    async def update(self, chunk: bytes) -> None:
        """Add a chunk."""
        await in_thread(self._digest.update, chunk)

    def verify(self) -> None:
        """Raise ChecksumError if the checksum is not the expected one."""
        actual = self._digest.hexdigest()
        if actual != self.expected:
            raise ChecksumError(f"sha256 is {actual} instead of {self.expected}")


class ResponseBody:
    """The chunks of a response's body, as they are sent.

    Iterating raises IncompleteError if there are not `size` bytes, and ChecksumError if
    there is a checksum and it does not match. A size of None means that the server did
    not announce one. `on_chunk` is called with the size of each chunk.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        size: int | None,
        on_chunk: Callable[[int], object],
        checksum: Checksum | None = None,
    ) -> None:
        self.size = size
        self.received = 0
        self._response = response
        self._on_chunk = on_chunk
        self._checksum = checksum

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._read()
        if not chunk:
            self._check_end()
            raise StopAsyncIteration
        self.received += len(chunk)
        if self._checksum is not None:
            await self._checksum.update(chunk)
        self._on_chunk(len(chunk))
        return chunk

    async def _read(self) -> bytes:
        """Return what has arrived; b"" at the end of the body."""
        content = self._response.content
        try:
            return await content.readany()
        except aiohttp.ClientError:
            # The connection is lost. What has arrived before is still in the buffer,
            # but aiohttp has no public method to get it. The next call raises again.
            rest = content._read_nowait(-1)
            if not rest:
                raise
            return rest

    def _check_end(self) -> None:
        if self.size is not None and self.received != self.size:
            raise IncompleteError(f"{self.received} of {self.size} bytes arrived")
        if self._checksum is not None:
            self._checksum.verify()

    def close(self) -> None:
        """Make the iteration fail, also one that waits for the next chunk."""
        self._response.close()
