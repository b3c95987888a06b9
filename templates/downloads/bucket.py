"""Save files in a bucket of S3, Google Cloud Storage or Azure.

The version of a file is stored as its metadata. A bucket has no parts: a file becomes
visible when its upload is complete.

This module calls the synchronous functions of obstore in threads. The asynchronous
ones, such as obstore.get_async(), return their result from a thread that is written in
Rust. If the program ends at that moment, Python stops this thread, and that aborts the
program with exit status 134. For the same reason, obstore gets a file to read, and not
`bytes`: its own threads would keep a reference to them, and release it later.
"""

import asyncio
import hashlib
import io
import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import ObjectStore, from_url

from .storage import Body
from .versions import Part, Version

T = TypeVar("T")

# Azure allows only letters, digits and underscores here.
METADATA_KEY = "sourceversion"

PART_SIZE = 5 * 2**20  # bytes; the smallest part that S3 accepts
MAX_PARTS = 10_000  # the largest number of parts that S3 accepts for a file
GRACE = 5.0  # seconds for a cancelled upload to delete its parts

# The address from which machines in a cloud get their keys. Other machines do not have
# it, so an error with this address means that there are no keys.
METADATA_SERVICE = "169.254.169.254"

# What S3 and Google, and what Azure calls the error.
MISSING_BUCKET = re.compile("NoSuchBucket|ContainerNotFound")

# Servers explain an error in XML.
XML_MESSAGE = re.compile("<Message>(.*?)</Message>", re.DOTALL)


def open_bucket(url: str) -> "BucketStorage":
    """Return the storage for a URL such as s3://bucket/prefix.

    Keys and settings come from environment variables. Raises ValueError if the URL or
    a variable is not valid.
    """
    check_endpoint("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP")
    check_endpoint("AWS_ENDPOINT", "AWS_ALLOW_HTTP")
    check_endpoint("AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP")
    check_endpoint("AZURE_ENDPOINT", "AZURE_ALLOW_HTTP")
    bucket = urlsplit(url).netloc.rpartition("@")[2]
    try:
        return BucketStorage(from_url(url), bucket)
    except BaseError as error:
        raise ValueError(explain(error, bucket)) from None


def check_endpoint(endpoint: str, permission: str) -> None:
    """Raise ValueError if the endpoint is an http:// URL that is not permitted."""
    is_http = os.environ.get(endpoint, "").lower().startswith("http://")
    is_permitted = os.environ.get(permission, "").lower() in {"true", "1"}
    if is_http and not is_permitted:
        raise ValueError(
            f"{endpoint} is not encrypted (http://); set {permission}=true to allow it"
        )


class BucketStorage:
    """Saves files in a bucket. Its name is only used in messages."""

    def __init__(self, store: ObjectStore, bucket: str = "") -> None:
        self.store = store
        self.bucket = bucket

    def close(self) -> None:
        pass

    async def finished(self, name: str) -> Version | None:
        head = partial(obstore.get, self.store, name, options={"head": True})
        try:
            result = await call_store(head)
        except (FileNotFoundError, PermissionDeniedError):
            # S3 answers "denied" for a missing file if the key may not list the bucket.
            return None
        except (BaseError, OSError) as error:
            raise OSError(explain(error, self.bucket)) from None
        return Version.from_json(result.attributes.get(METADATA_KEY, ""))

    async def part(self, name: str) -> Part | None:
        return None

    async def part_sha256(self, name: str) -> "hashlib._Hash":
        return hashlib.sha256()

    async def discard_part(self, name: str) -> None:
        pass

    async def save(
        self, name: str, version: Version, body: Body, offset: int = 0
    ) -> None:
        size = version.stored_size
        is_small = size is not None and size <= PART_SIZE
        reader = BodyReader(body)
        file: IO[bytes]
        if is_small:
            file = io.BytesIO(b"".join([chunk async for chunk in body]))
        else:
            file = io.BufferedReader(reader)
        upload = partial(
            obstore.put,
            self.store,
            name,
            file,
            attributes={METADATA_KEY: version.to_json()},
            use_multipart=not is_small,
            chunk_size=part_size(size),
            max_concurrency=1,  # each concurrent part would be kept in memory
        )
        try:
            await call_store(upload, on_cancel=body.close)
        except (BaseError, OSError) as error:
            if reader.error is not None:
                raise reader.error from None
            raise OSError(explain(error, self.bucket)) from None


class BodyReader(io.RawIOBase):
    """A file from which a thread reads a body.

    Each chunk is awaited in the event loop in which this object was created. If that
    fails, obstore raises another error, so the first one is kept as `error`.
    """

    def __init__(self, body: Body) -> None:
        self.error: Exception | None = None
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Copy the next bytes into the buffer. Returns their number, 0 at the end."""
        if not self._rest:
            chunk = asyncio.run_coroutine_threadsafe(self._next_chunk(), self._loop)
            self._rest = memoryview(chunk.result())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    async def _next_chunk(self) -> bytes:
        """Return the next chunk that is not empty, or b"" at the end of the body."""
        try:
            async for chunk in self._body:
                if chunk:
                    return chunk
        except Exception as error:
            self.error = error
            raise
        return b""


def part_size(size: int | None) -> int:
    """Return the size of the parts of a file of this size, in bytes."""
    if size is None:
        return PART_SIZE
    return max(PART_SIZE, size // MAX_PARTS + 1)


async def call_store(
    call: Callable[[], T], on_cancel: Callable[[], object] | None = None
) -> T:
    """Return the result of an operation of a store, which runs in a new thread.

    A cancelled upload leaves hidden parts in the bucket, while one that fails deletes
    them. So if this function is cancelled, it calls `on_cancel`, which must make the
    upload fail, and waits up to GRACE seconds for its end. An operation that takes
    longer is left behind, and stops when the program ends.
    """
    result: Future[T] = Future()
    # Not a thread of a pool: if uploads used all threads of the pool, the bodies that
    # they wait for could not use any. A daemon does not delay the end of the program,
    # while obstore may try for minutes to reach a server.
    Thread(target=run_call, args=(call, result), daemon=True).start()
    waiting = asyncio.wrap_future(result)
    try:
        await asyncio.wait([waiting])
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait([waiting], timeout=GRACE)
        if not waiting.cancel():
            waiting.exception()  # mark it as seen: the cancellation is what counts
        raise
    return waiting.result()


def run_call(call: Callable[[], T], result: "Future[T]") -> None:
    """Set the result of a call, or its error."""
    result.set_running_or_notify_cancel()
    try:
        value = call()
    except BaseException as error:
        result.set_exception(error)
    else:
        result.set_result(value)


def explain(error: Exception, bucket: str) -> str:
    """Return the error of a store as one line, without the details for debugging."""
    text = str(error)
    if METADATA_SERVICE in text:
        return (
            "no credentials in the environment: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the variables of your provider"
        )
    if MISSING_BUCKET.search(text):
        return f"the bucket does not exist: {bucket}"
    # After the first line comes the error again, in a form for debugging.
    first_line = text.partition("\n")[0]
    summary, xml, _ = first_line.partition("<?xml")
    message = XML_MESSAGE.search(text)
    if xml and message is not None:
        return summary + message[1]
    return first_line
