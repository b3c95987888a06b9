"""Save files in a bucket of S3, Google Cloud Storage or Azure.

The version of a file is stored as its metadata. A bucket has no parts: a file becomes
visible when its upload is complete.
"""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

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


def open_bucket(url: str) -> "BucketStorage":
    """Return the storage for a URL such as s3://bucket/prefix.

    Keys and settings come from environment variables. Raises ValueError if the URL or
    a variable is not valid.
    """
    check_endpoint("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP")
    check_endpoint("AWS_ENDPOINT", "AWS_ALLOW_HTTP")
    check_endpoint("AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP")
    check_endpoint("AZURE_ENDPOINT", "AZURE_ALLOW_HTTP")
    try:
        return BucketStorage(from_url(url))
    except BaseError as error:
        raise ValueError(explain(error)) from None


def check_endpoint(endpoint: str, permission: str) -> None:
    """Raise ValueError if the endpoint is an http:// URL that is not permitted."""
    is_http = os.environ.get(endpoint, "").lower().startswith("http://")
    is_permitted = os.environ.get(permission, "").lower() in {"true", "1"}
    if is_http and not is_permitted:
        raise ValueError(
            f"{endpoint} is not encrypted (http://); set {permission}=true to allow it"
        )


class BucketStorage:
    """Saves files in a bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def close(self) -> None:
        pass

    async def finished(self, name: str) -> Version | None:
        head = obstore.get_async(self.store, name, options={"head": True})
        try:
            result = await wait_for_store(head)
        except (FileNotFoundError, PermissionDeniedError):
            # S3 answers "denied" for a missing file if the key may not list the bucket.
            return None
        except BaseError as error:
            raise OSError(explain(error)) from None
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
        data: Body | bytes = body
        size = version.stored_size
        if size is not None and size <= PART_SIZE:
            data = b"".join([chunk async for chunk in body])
        upload = obstore.put_async(
            self.store,
            name,
            data,
            attributes={METADATA_KEY: version.to_json()},
            chunk_size=part_size(size),
            max_concurrency=1,  # each concurrent part would be kept in memory
        )
        try:
            await wait_for_store(upload, on_cancel=body.close)
        except BaseError as error:
            raise OSError(explain(error)) from None


def part_size(size: int | None) -> int:
    """Return the size of the parts of a file of this size, in bytes."""
    if size is None:
        return PART_SIZE
    return max(PART_SIZE, size // MAX_PARTS + 1)


async def wait_for_store(
    work: Awaitable[T], on_cancel: Callable[[], object] | None = None
) -> T:
    """Return the result of an operation of a store.

    A cancelled upload leaves hidden parts in the bucket, while one that fails deletes
    them. So if this function is cancelled, it calls `on_cancel`, which must make the
    upload fail, and waits up to GRACE seconds for its end.
    """
    future = asyncio.ensure_future(work)
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait([future], timeout=GRACE)
        future.cancel()
        raise
    return future.result()


def explain(error: BaseError) -> str:
    """Return the error of a store as one line."""
    text = str(error)
    if METADATA_SERVICE in text:
        return (
            "no credentials in the environment: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the variables of your provider"
        )
    return text.partition("\n")[0]
