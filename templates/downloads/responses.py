"""Check the responses to download requests, and read their bodies completely."""

import hashlib
import re
import zlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Self

import aiohttp

from .storage import Body, in_thread
from .versions import Part, Version, content_encoding

CHUNK = 2**20  # bytes; the maximum size of a decompressed chunk

CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class IncompleteError(aiohttp.ClientPayloadError):
    """Bytes are missing in a response. Another attempt may get them."""


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

    Because of If-Range, the server sends the whole file instead if it has changed.
    Raises ValueError if the part cannot be resumed.
    """
    validator = part.version.validator
    if validator is None:
        raise ValueError("without a validator, the rest may belong to another version")
    return {"Range": f"bytes={part.size}-", "If-Range": validator}


def is_answer_to_range(response: aiohttp.ClientResponse) -> bool:
    """Return whether the response refers to the requested range."""
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
        raise IncompleteError("the server did not say which part it sent")
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
    """Return whether the server still has the version that is known."""
    if response.status == HTTPStatus.NOT_MODIFIED:
        return known.etag is not None  # otherwise the request had no condition
    return response.status == HTTPStatus.OK and known.is_same_as(
        Version.of(response, url)
    )


# --- Bodies


class ResponseBody:
    """The chunks of a response's body, as they are sent.

    Iterating raises IncompleteError unless `size` bytes arrive; None means that the
    size was not announced. `on_chunk` is called with the size of each chunk.
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
            # The connection was lost. The data that arrived before is still in the
            # buffer, but aiohttp has no public method to read it after an error. The
            # next call raises the error again.
            rest = content._read_nowait(-1)
            if not rest:
                raise
            return rest

    def close(self) -> None:
        self._response.close()


class VerifiedBody:
    """The chunks of a body, and a check at its end.

    Iterating raises ChecksumError if the SHA-256 hash is not `expected`.
    """

    def __init__(self, body: Body, expected: str, digest: "hashlib._Hash") -> None:
        """`digest` is the hash of what was saved before this body."""
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

    A chunk has at most CHUNK bytes, even if a small body contains a huge file.
    Iterating raises IncompleteError if the compressed data is cut off, and ValueError
    if it is not valid.
    """

    def __init__(self, body: Body, encoding: str) -> None:
        """Raises ValueError unless the encoding is gzip or deflate."""
        self.encoding = encoding
        if encoding not in {"gzip", "x-gzip", "deflate"}:
            raise ValueError(f"cannot decompress the encoding {encoding}")
        self._body = body
        self._received = b""
        self._has_more = False  # whether what was received may contain another chunk
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
                raise IncompleteError("the compressed data is cut off") from None
            raise

    def _decompress(self) -> bytes:
        """Return the next chunk of what was received; it may be empty."""
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(self._format())
        try:
            chunk = self._decompressor.decompress(self._received, CHUNK)
        except zlib.error:
            raise ValueError(f"the body is not valid {self.encoding}") from None
        if self._decompressor.eof:
            # Compressed data may be followed by more, with a header of its own.
            self._received = self._decompressor.unused_data
            self._has_more = bool(self._received)
            self._decompressor = None
        else:
            # After a full chunk, there may be more, even if all input was consumed.
            self._received = self._decompressor.unconsumed_tail
            self._has_more = len(chunk) == CHUNK
        return chunk

    def _format(self) -> int:
        """Return the format of the data as zlib's parameter `wbits`."""
        if self.encoding != "deflate":
            return zlib.MAX_WBITS + 16
        # "deflate" means data with a zlib header, but some servers omit the header.
        has_header = self._received[0] & 0x0F == 8
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS

    def close(self) -> None:
        self._body.close()
