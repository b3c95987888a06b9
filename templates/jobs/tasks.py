"""The tasks. To add your own, write a function and enter it in TASKS.

A task is an `async def` function with one argument. The argument and the result are
JSON values: str, int, float, bool, None, and lists and dicts of these. A task may be
done twice, because its worker can die after the work and before the result is stored.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

CHUNK_BYTES = 2**20

Task = Callable[[Any], Awaitable[Any]]


async def describe(path: str) -> dict[str, int | str]:
    """Return the size and the checksum of a file. Raises OSError."""
    digest = hashlib.sha256()
    # Bytes that are in the checksum. The file may grow, so this is not its size on
    # disk.
    size = 0
    # Files block, and so does the checksum of a large chunk: they go to threads.
    with await asyncio.to_thread(open, path, "rb") as file:
        while True:
            chunk = await asyncio.to_thread(file.read, CHUNK_BYTES)
            if not chunk:
                break
            await asyncio.to_thread(digest.update, chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


# The tasks that a worker can do, by the names in jobs.
TASKS: dict[str, Task] = {"describe": describe}
