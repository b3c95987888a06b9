"""Understand the response to a download request, and read its body completely."""

import hashlib
import re
import zlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Self

import aiohttp

from .storage import Body, in_thread
from .versions import Part, Version, content_encoding

CHUNK = 2**20  # bytes; the most that is decompressed at a time

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
    known = part.version
    etag = response.headers.get("ETag", known.etag)
    last_modified = response.headers.get("Last-Modified", known.last_modified)
    if etag != known.etag or last_modified != known.last_modified:
        raise IncompleteError("the server sent a part of another version")
    if content_encoding(response.headers) not in {None, known.encoding}:
        raise IncompleteError("the server sent a part in another encoding")


def is_unchanged(response: aiohttp.ClientResponse, known: Version, url: str) -> bool:
    """Return whether the server still has a version that is known."""
    if response.status == HTTPStatus.NOT_MODIFIED:
        return known.etag is not None  # only then the request was conditional
    return response.status == HTTPStatus.OK and known.is_same_as(
        Version.of(response, url)
    )


# --- Bodies


class ResponseBody:
    """The chunks of a response's body, as they are sent.

    Iterating raises IncompleteError if there are not `size` bytes. A size of None means
    that the server did not announce one. `on_chunk` is called with the size of each
    chunk.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        size: int | None,
        on_chunk: Callable[[int], object],
    ) -> None:
        self.size = size
        self.received = 0
        self._response = response
        self._on_chunk = on_chunk

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._read()
        if not chunk:
            if self.size is not None and self.received != self.size:
                raise IncompleteError(f"{self.received} of {self.size} bytes arrived")
            raise StopAsyncIteration
        self.received += len(chunk)
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

    def close(self) -> None:
        self._response.close()


class VerifiedBody:
    """The chunks of a body, whose checksum is verified at the end.

    Iterating raises ChecksumError if the SHA-256 hash is not the expected one.
    """

    def __init__(self, body: Body, expected: str, digest: "hashlib._Hash") -> None:
        """`digest` already contains what was saved earlier."""
        self.expected = expected
        self._body = body
        self._digest = digest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._body)
        except StopAsyncIteration:
            self._verify()
            raise
        await in_thread(self._digest.update, chunk)
        return chunk

    def _verify(self) -> None:
        actual = self._digest.hexdigest()
        if actual != self.expected:
            raise ChecksumError(f"sha256 is {actual} instead of {self.expected}")

    def close(self) -> None:
        self._body.close()


class DecompressedBody:
    """The chunks of a body that was sent with a Content-Encoding, decompressed.

    A chunk has at most CHUNK bytes, since a few compressed bytes may contain a great
    many. Iterating raises IncompleteError if the end of the compressed data is missing,
    and ValueError if the data is not valid.
    """

    def __init__(self, body: Body, encoding: str) -> None:
        """Raises ValueError unless the encoding is gzip or deflate."""
        self.encoding = encoding
        if encoding not in {"gzip", "x-gzip", "deflate"}:
            raise ValueError(f"cannot decompress the encoding {encoding}")
        self._body = body
        self._received = b""
        self._has_more = False  # whether there is output before the next chunk arrives
        self._decompressor: zlib._Decompress | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = b""
        while not chunk:
            if not self._has_more:
                await self._receive()
            chunk = await in_thread(self._decompress)
        return chunk

    async def _receive(self) -> None:
        try:
            self._received = await anext(self._body)
        except StopAsyncIteration:
            if self._decompressor is not None:
                raise IncompleteError("the compressed data has no end") from None
            raise

    def _decompress(self) -> bytes:
        """Return the next chunk, or b"" if it needs more than what was received."""
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(self._format())
        try:
            chunk = self._decompressor.decompress(self._received, CHUNK)
        except zlib.error:
            raise ValueError(f"the body is not valid {self.encoding}") from None
        if self._decompressor.eof:
            # The rest, if there is one, is compressed data with a header of its own.
            self._received = self._decompressor.unused_data
            self._has_more = bool(self._received)
            self._decompressor = None
        else:
            # If the chunk is full, even an empty rest may have more output.
            self._received = self._decompressor.unconsumed_tail
            self._has_more = len(chunk) == CHUNK
        return chunk

    def _format(self) -> int:
        """Return the format of the received data, as zlib names it."""
        if self.encoding != "deflate":
            return zlib.MAX_WBITS + 16
        # The standard demands a header, but some servers omit it.
        has_header = self._received[0] & 0x0F == 8
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS

    def close(self) -> None:
        self._body.close()
