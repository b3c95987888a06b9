"""Save files in a folder. A file appears only when it is complete.

A bucket (bucket.py) has the same methods, but only a folder can resume downloads. Its
hidden subfolder contains:

    .downloads/parts/NAME  the bytes of NAME that have been saved so far
    .downloads/versions    the version of each part, and of each file without a part
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Protocol, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .file_names import STATE_FOLDER
from .versions import Part, Version, VersionLog

P = ParamSpec("P")
T = TypeVar("T")

# bytes; a file of this size or less is written by one call in a thread
SMALL_FILE = 2**20


class Body(Protocol):
    """The chunks of a file. Iterating raises an error if the file is incomplete."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    def close(self) -> None:
        """Make the iteration fail, even if it waits for the next chunk."""


class Storage(Protocol):
    """A place for files. The methods raise OSError if it cannot be used."""

    async def finished(self, name: str) -> Version | None:
        """Return the version of a finished file; None if it is missing or unknown."""

    async def part(self, name: str) -> Part | None:
        """Return what an interrupted download of the file has saved."""

    async def part_sha256(self, name: str) -> "hashlib._Hash":
        """Return the hash of the part, to be updated with the rest of the file."""

    async def discard_part(self, name: str) -> None:
        """Delete the part, if there is one."""

    async def save(
        self, name: str, version: Version, body: Body, offset: int = 0
    ) -> None:
        """Save a file; the first `offset` bytes of it are in the part.

        If this fails or is cancelled, an earlier file of this name stays as it is.
        """

    def close(self) -> None:
        """Close the storage. It cannot be used afterwards."""


async def open_storage(to: str) -> Storage:
    """Return the storage at a path or URL. A folder is created if it is missing.

    Raises OSError if the folder cannot be used, and ValueError if the URL is not valid.
    """
    if to.startswith("file://"):
        to = url2pathname(urlsplit(to).path)
    if "://" not in to:
        return await in_thread(FolderStorage, Path(to))
    # Imported here because only buckets need this library.
    from .bucket import open_bucket

    return await in_thread(open_bucket, to)


class FolderStorage:
    """Saves files in a folder, which is created if it does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / STATE_FOLDER / "parts"
        self.parts.mkdir(parents=True, exist_ok=True)
        self._versions = VersionLog(folder / STATE_FOLDER / "versions")

    def close(self) -> None:
        self._versions.close()

    # --- What is there

    async def finished(self, name: str) -> Version | None:
        version = self._versions.get(name)
        if version is None:
            return None
        size = await in_thread(self._finished_size, name)
        if size is None:
            return None
        if version.stored_size not in {None, size}:
            return None  # the file was changed by another program
        return version

    def _finished_size(self, name: str) -> int | None:
        """Return the size of a file; None if it is missing, or older than its part."""
        if (self.parts / name).exists():
            return None
        return file_size(self.folder / name)

    async def part(self, name: str) -> Part | None:
        version = self._versions.get(name)
        if version is None:
            return None
        size = await in_thread(file_size, self.parts / name)
        if size is None:
            return None
        return Part(version, size)

    async def part_sha256(self, name: str) -> "hashlib._Hash":
        return await in_thread(hash_file, self.parts / name)

    async def discard_part(self, name: str) -> None:
        await in_thread((self.parts / name).unlink, missing_ok=True)

    # --- Saving

    async def save(
        self, name: str, version: Version, body: Body, offset: int = 0
    ) -> None:
        try:
            if offset == 0 and is_small(version):
                await self._save_small(name, version, body)
            else:
                await self._save_chunks(name, version, body, offset)
        except BlockingIOError:
            raise  # another program writes the part
        except BaseException:
            if version.validator is None:
                await self.discard_part(name)  # it cannot be resumed
            raise

    async def _save_small(self, name: str, version: Version, body: Body) -> None:
        """Save a file by one call in a thread, which is faster than one per chunk."""
        data = bytearray()
        is_complete = False
        try:
            async for chunk in body:
                data += chunk
            is_complete = True
        finally:
            await in_thread(self._write_small, name, version, data, is_complete)

    def _write_small(
        self, name: str, version: Version, data: bytearray, is_complete: bool
    ) -> None:
        with PartFile(self.parts / name) as part:
            self._begin(part, name, version, 0)
            part.write(data)
            if is_complete:
                part.finish(self.folder / name)

    async def _save_chunks(
        self, name: str, version: Version, body: Body, offset: int
    ) -> None:
        part = PartFile(self.parts / name)
        try:
            await in_thread(self._begin, part, name, version, offset)
            async for chunk in body:
                await in_thread(part.write, chunk)
            await in_thread(part.finish, self.folder / name)
        finally:
            await in_thread(part.close)

    def _begin(
        self, part: "PartFile", name: str, version: Version, offset: int
    ) -> None:
        part.open(offset)
        # The version is set after open() has removed the bytes of an older version.
        self._versions.set(name, version)


class PartFile:
    """A part that this process writes. A lock keeps other processes from writing it."""

    _file: FileIO

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.is_open = False

    def open(self, size: int) -> None:
        """Open or create the part, and keep only its first `size` bytes.

        Raises BlockingIOError if another process writes it.
        """
        # Without a buffer, an error is raised by write(), and not later by close().
        self._file = FileIO(self.path, "ab")
        self.is_open = True
        lock(self._file.fileno())
        status = os.fstat(self._file.fileno())
        if not os.path.samestat(status, os.stat(self.path)):
            raise BlockingIOError("another program has just downloaded this file")
        if status.st_size < size:
            raise OSError("another program has deleted the part of this file")
        if status.st_size > size:
            self._file.truncate(size)
        self.size = size

    def write(self, data: bytes | bytearray) -> None:
        """Append data."""
        rest = memoryview(data)
        while rest:
            # If the disk is nearly full, only a part of the data is written.
            written = self._file.write(rest)
            rest = rest[written:]
        self.size += len(data)

    def finish(self, target: Path) -> None:
        """Flush the part to the disk, and rename it to `target`.

        Without the flush, `target` could be empty after a power cut.
        """
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        if size != self.size:
            raise OSError(f"{size} bytes were stored instead of {self.size}")
        if sys.platform == "win32":
            self._file.close()  # Windows does not rename open files
        os.replace(self.path, target)

    def close(self) -> None:
        """Close the part, which also unlocks it."""
        if self.is_open:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def lock(descriptor: int) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError if it is locked."""
    problem = "another program is downloading this file"
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError(problem) from None
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(problem) from None
        except OSError:
            pass  # some network file systems have no locks


def is_small(version: Version) -> bool:
    """Return whether a file is known to be small."""
    return version.stored_size is not None and version.stored_size <= SMALL_FILE


def file_size(path: Path) -> int | None:
    """Return the size of a file, or None if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def hash_file(path: Path) -> "hashlib._Hash":
    """Return the SHA-256 hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `function` returns, running it in a thread.

    If this is cancelled, it first waits until the function has returned: the caller can
    then clean up without the thread still using a file.
    """
    # asyncio.to_thread() would need one more task for each call.
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # mark it as seen: the cancellation is what counts
        raise
