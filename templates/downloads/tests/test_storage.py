"""Saving: in a folder, and in a bucket in memory. See test_app.py for a real bucket."""

import asyncio
import errno
import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import IO, Any

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from downloads import storage, versions
from downloads.bucket import (
    GRACE,
    MAX_PARTS,
    BucketStorage,
    call_store,
    explain,
    part_size,
)
from downloads.storage import (
    FolderStorage,
    PartFile,
    Storage,
    in_thread,
    open_storage,
)
from downloads.versions import Part, Version, hash_of_url

OpenFolder = Callable[[Path], FolderStorage]

BIG = 3 * 2**20 + 1
VERSION = Version(url_sha256=hash_of_url("http://h/a"), size=4, etag='"1"')


class Chunks:
    """A body that consists of these chunks; an exception among them is raised."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = list(chunks)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.chunks:
            raise StopAsyncIteration
        chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self) -> None:
        self.closed = True


def visible(folder: Path) -> list[str]:
    """Return the names of the files in a folder, without the hidden subfolder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


async def read(storage: Storage, name: str) -> bytes:
    """Return what the storage has under this name."""
    if isinstance(storage, FolderStorage):
        return await asyncio.to_thread((storage.folder / name).read_bytes)
    assert isinstance(storage, BucketStorage)
    result = await storage.store.get_async(name)
    return bytes(await result.bytes_async())


@pytest.fixture
def local(folder: Path, open_folder: OpenFolder) -> FolderStorage:
    return open_folder(folder)


@pytest.fixture
def version() -> Version:
    """A version of unknown size, which is not written by one call."""
    return replace(VERSION, size=None)


# --- A folder and a bucket


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 5 * 2**20, 5 * 2**20 + 1])
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.asyncio
async def test_a_file_is_saved_with_its_version(
    storage: Storage, size: int, announced: bool
) -> None:
    version = replace(VERSION, size=size if announced else None)
    chunks = [os.urandom(size // 2), os.urandom(size - size // 2)]
    await storage.save("a", version, Chunks(*chunks))
    assert await read(storage, "a") == b"".join(chunks)
    assert await storage.finished("a") == version
    assert await storage.part("a") is None


@pytest.mark.asyncio
async def test_a_file_that_does_not_exist_has_no_version(storage: Storage) -> None:
    assert await storage.finished("a") is None
    assert await storage.part("a") is None


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.asyncio
async def test_an_incomplete_body_leaves_the_earlier_file(
    storage: Storage, size: int | None
) -> None:
    await storage.save("a", VERSION, Chunks(b"older"[:4]))
    body = Chunks(b"ne", OSError("cut"))
    with pytest.raises(OSError, match="cut"):
        await storage.save("a", replace(VERSION, size=size), body)
    assert await read(storage, "a") == b"olde"


# --- Only a folder


@pytest.mark.asyncio
async def test_another_program_that_changes_the_file_makes_it_unknown(
    local: FolderStorage,
) -> None:
    await local.save("a", VERSION, Chunks(b"text"))
    (local.folder / "a").write_bytes(b"longer")
    assert await local.finished("a") is None
    (local.folder / "a").unlink()
    assert await local.finished("a") is None


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("text", ["a", "a\t{", "a\t[]", 'a\t{"size": 4}', "a\t\xff"])
@pytest.mark.asyncio
async def test_a_damaged_line_in_the_log_is_ignored(
    local: FolderStorage, open_folder: OpenFolder, text: str, end: str
) -> None:
    log = local.folder / ".downloads" / "versions"
    await local.save("a", VERSION, Chunks(b"text"))
    text = text + end
    with log.open("a", encoding="latin-1") as file:
        await asyncio.to_thread(file.write, text)
    later = await asyncio.to_thread(open_folder, local.folder)
    assert await later.finished("a") == VERSION
    await later.save("b", VERSION, Chunks(b"text"))
    latest = await asyncio.to_thread(open_folder, local.folder)
    assert await latest.finished("b") == VERSION


@pytest.mark.asyncio
async def test_a_part_is_kept_for_a_later_run(
    local: FolderStorage, open_folder: OpenFolder, version: Version
) -> None:
    with pytest.raises(OSError, match="cut"):
        await local.save("a", version, Chunks(b"te", b"x", OSError("cut")))
    assert visible(local.folder) == []

    later = await asyncio.to_thread(open_folder, local.folder)
    assert await later.part("a") == Part(version, 3)
    digest = await later.part_sha256("a")
    assert digest.digest() == hashlib.sha256(b"tex").digest()
    await later.save("a", version, Chunks(b"t"), offset=3)
    assert await read(later, "a") == b"text"
    assert await later.part("a") is None


@pytest.mark.asyncio
async def test_a_part_of_a_new_version_hides_the_old_file(
    local: FolderStorage, version: Version
) -> None:
    """Its version is not known any more."""
    await local.save("a", version, Chunks(b"text"))
    with pytest.raises(OSError, match="cut"):
        await local.save("a", version, Chunks(b"te", OSError("cut")))
    assert await local.finished("a") is None
    assert await read(local, "a") == b"text"


@pytest.mark.asyncio
async def test_a_part_that_cannot_be_resumed_is_deleted(
    local: FolderStorage, version: Version
) -> None:
    version = replace(version, etag=None)
    with pytest.raises(OSError, match="cut"):
        await local.save("a", version, Chunks(b"te", OSError("cut")))
    assert await local.part("a") is None
    assert list(local.parts.iterdir()) == []


@pytest.mark.asyncio
async def test_a_new_start_overwrites_the_part(
    local: FolderStorage, version: Version
) -> None:
    with pytest.raises(OSError, match="cut"):
        await local.save("a", version, Chunks(b"xxxxxxx", OSError("cut")))
    await local.save("a", version, Chunks(b"text"))
    assert await read(local, "a") == b"text"


@pytest.mark.asyncio
async def test_a_name_may_be_as_long_as_the_file_system_allows(
    local: FolderStorage,
) -> None:
    name = "x" * 255
    await local.save(name, VERSION, Chunks(b"text"))
    assert await read(local, name) == b"text"
    with pytest.raises(OSError, match=r"name too long|Invalid argument|No such file"):
        await local.save(name + "x", VERSION, Chunks(b"text"))


@pytest.mark.asyncio
async def test_the_data_is_on_the_disk_before_the_name_appears(
    local: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace_file = os.fsync, os.replace

    def logged_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def logged_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace_file(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    await local.save("a", VERSION, Chunks(b"text"))
    assert calls == ["fsync", "replace"]


def test_a_file_is_downloaded_by_one_program_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with PartFile(path) as first:
        first.open(0)
        first.write(b"text")
        with PartFile(path) as second:
            with pytest.raises(BlockingIOError, match="another program is download"):
                second.open(0)
    assert path.read_bytes() == b"text"
    with PartFile(path) as third:
        third.open(2)
    assert path.read_bytes() == b"te"


@pytest.mark.parametrize("etag", ['"1"', None])
@pytest.mark.asyncio
async def test_the_part_of_another_program_is_not_deleted(
    local: FolderStorage, etag: str | None
) -> None:
    version = replace(VERSION, etag=etag)
    with PartFile(local.parts / "a") as part:
        await asyncio.to_thread(part.open, 0)
        with pytest.raises(BlockingIOError):
            await local.save("a", version, Chunks(b"text"))
        await asyncio.to_thread(part.write, b"other")
        await asyncio.to_thread(part.finish, local.folder / "a")
    assert await read(local, "a") == b"other"


@pytest.mark.asyncio
async def test_a_part_that_has_vanished_is_not_filled_with_zeros(
    local: FolderStorage, version: Version
) -> None:
    with pytest.raises(OSError, match="deleted the part"):
        await local.save("a", version, Chunks(b"t"), offset=3)
    assert visible(local.folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="uses the locks of Unix")
def test_a_file_system_without_locks_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with PartFile(tmp_path / "part") as part:
        part.open(0)
        part.write(b"text")
        part.finish(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"text"


def test_a_file_that_another_program_has_just_finished_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other program renames its part while this one waits for the lock."""
    path = tmp_path / "part"
    path.write_bytes(b"text")

    def finish_elsewhere(_descriptor: int) -> None:
        path.rename(tmp_path / "a")
        path.touch()

    monkeypatch.setattr(storage, "lock", finish_elsewhere)
    with PartFile(path) as part, pytest.raises(BlockingIOError, match="just"):
        part.open(0)
    assert (tmp_path / "a").read_bytes() == b"text"


# --- Disks that are full


class ShortFile(io.FileIO):
    """A file on a disk that is nearly full: it stores a few bytes of each write."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data[:3]))


class LosingFile(io.FileIO):
    """A file that stores less than it says."""

    def write(self, data: Any) -> int:
        super().write(bytes(data[1:]))
        return len(data)


@pytest.mark.parametrize("size", [11, None])
@pytest.mark.asyncio
async def test_a_short_write_is_continued(
    local: FolderStorage, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(storage, "FileIO", ShortFile)
    await local.save("a", replace(VERSION, size=size), Chunks(b"hello ", b"world"))
    assert await read(local, "a") == b"hello world"


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.asyncio
async def test_a_file_with_missing_bytes_does_not_appear(
    local: FolderStorage, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(storage, "FileIO", LosingFile)
    with pytest.raises(OSError, match="3 bytes were stored instead of 4"):
        await local.save("a", replace(VERSION, size=size), Chunks(b"text"))
    assert visible(local.folder) == []


@pytest.mark.asyncio
async def test_a_version_that_does_not_fit_in_the_log_is_an_error(
    folder: Path, open_folder: OpenFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "FileIO", ShortFile)
    local = await asyncio.to_thread(open_folder, folder)
    with pytest.raises(OSError, match="No space left"):
        await local.save("a", VERSION, Chunks(b"text"))
    assert visible(folder) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system, and only on Linux")
    mount, umount = which("mount"), which("umount")
    if mount is None or umount is None:
        pytest.skip("this machine cannot mount file systems")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not allow mounting")
    yield disk
    subprocess.run([umount, str(disk)], check=True)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.asyncio
async def test_a_file_that_exceeds_the_disk_does_not_appear(
    small_disk: Path, open_folder: OpenFolder, announced: bool
) -> None:
    local = await asyncio.to_thread(open_folder, small_disk)
    data = bytes(600_000)
    version = replace(VERSION, size=len(data) if announced else None)
    await local.save("a", version, Chunks(data))
    with pytest.raises(OSError, match="No space left"):
        await local.save("b", version, Chunks(data))
    assert visible(small_disk) == ["a"]
    # The part is resumed when there is room again.
    (small_disk / "a").unlink()
    part = await local.part("b")
    assert part is not None
    assert 0 < part.size < 600_000
    await local.save("b", version, Chunks(data[part.size :]), offset=part.size)
    assert await read(local, "b") == data


# --- Threads


@pytest.mark.asyncio
async def test_a_cancelled_call_waits_for_its_thread() -> None:
    """Otherwise the thread could write to a file that is closed already."""
    order: list[str] = []
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    released = asyncio.Event()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        order.append("thread")

    async def caller() -> None:
        try:
            await in_thread(work)
        finally:
            order.append("caller")

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert order == []
    released.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert order == ["thread", "caller"]


# --- Only a bucket


@pytest.mark.parametrize("to", ["gopher://bucket", "s3://"])
@pytest.mark.asyncio
async def test_a_url_of_no_bucket_is_refused(to: str) -> None:
    with pytest.raises(ValueError, match="Unable to recognise URL"):
        await open_storage(to)


@pytest.mark.asyncio
async def test_a_file_url_is_a_folder(folder: Path) -> None:
    with closing(await open_storage(folder.as_uri())) as storage:
        assert isinstance(storage, FolderStorage)
        assert storage.folder == folder


@pytest.mark.parametrize(
    ("endpoint", "permission", "to"),
    [
        ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "s3://b"),
        ("AWS_ENDPOINT", "AWS_ALLOW_HTTP", "s3://b"),
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP", "az://c"),
        ("AZURE_ENDPOINT", "AZURE_ALLOW_HTTP", "az://c"),
    ],
)
@pytest.mark.asyncio
async def test_an_endpoint_without_encryption_needs_permission(
    endpoint: str, permission: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "name")
    monkeypatch.setenv(endpoint, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=f"{endpoint} .* set {permission}=true"):
        await open_storage(to)
    monkeypatch.setenv(permission, "true")
    with closing(await open_storage(to)) as storage:
        assert isinstance(storage, BucketStorage)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Generic error: one line\n\nDebug source:\nGeneric {",
            "Generic error: one line",
        ),
        ("one line\nanother", "one line"),
        (
            'PUT: 403 Forbidden: <?xml version="1.0"?>\n<Error><Code>Denied</Code>'
            "<Message>Access Denied</Message></Error>\n\nDebug source:\nGeneric {",
            "PUT: 403 Forbidden: Access Denied",
        ),
        (
            '404: <?xml version="1.0"?><Error><Code>ContainerNotFound</Code></Error>',
            "the bucket does not exist: photos",
        ),
        (
            "Error performing PUT http://169.254.169.254/latest/api",
            "no credentials in the environment: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the variables of your provider",
        ),
    ],
)
def test_an_error_of_a_store_is_explained_in_one_line(text: str, expected: str) -> None:
    assert explain(GenericError(text), "photos") == expected


@pytest.mark.parametrize("kind", [GenericError, OSError])
@pytest.mark.asyncio
async def test_an_error_while_looking_for_a_file_is_one_line(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(*_args: object, **_options: object) -> None:
        raise kind("no answer\n\nDebug source:\nGeneric {")

    monkeypatch.setattr(obstore, "get", get)
    with pytest.raises(OSError, match=r"^no answer$"):
        await BucketStorage(MemoryStore()).finished("a")


def test_large_files_have_larger_parts() -> None:
    assert part_size(None) == part_size(0) == part_size(50 * 10**9) == 5 * 2**20
    terabyte = 10**12
    assert part_size(terabyte) * MAX_PARTS >= terabyte
    assert part_size(terabyte) < 101 * 10**6


@pytest.mark.asyncio
async def test_a_file_of_another_program_is_unknown(storage: Storage) -> None:
    if isinstance(storage, FolderStorage):
        (storage.folder / "a").write_bytes(b"text")
    else:
        assert isinstance(storage, BucketStorage)
        await storage.store.put_async("a", b"text")
    assert await storage.finished("a") is None


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_cancelled_operation_that_does_not_stop_is_left_behind() -> None:
    released = threading.Event()
    try:
        work = asyncio.create_task(call_store(released.wait))
        await asyncio.sleep(1)
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
        assert asyncio.get_running_loop().time() == 1 + GRACE
    finally:
        released.set()


@pytest.mark.asyncio
async def test_many_operations_of_a_store_run_at_the_same_time() -> None:
    """With a pool of threads, the last ones would have to wait."""
    barrier = threading.Barrier(100)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(call_store(barrier.wait))


@pytest.mark.asyncio
async def test_the_threads_of_obstore_get_no_python_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If they had some, the program could be aborted when it ends."""
    for name in dir(obstore):
        if name.endswith("_async"):
            monkeypatch.delattr(obstore, name)
    put = obstore.put

    def checked_put(
        store: MemoryStore, name: str, file: IO[bytes], **options: Any
    ) -> object:
        # It is read in the calling thread. The threads would keep any other object.
        assert isinstance(file, io.BufferedIOBase)
        return put(store, name, file, **options)

    monkeypatch.setattr(obstore, "put", checked_put)
    bucket = BucketStorage(MemoryStore())
    for size in (4, None):
        await bucket.save("a", replace(VERSION, size=size), Chunks(b"text"))
        assert await bucket.finished("a") is not None


@pytest.mark.asyncio
async def test_a_bucket_keeps_no_part() -> None:
    storage = BucketStorage(MemoryStore())
    await storage.discard_part("a")
    digest = await storage.part_sha256("a")
    assert digest.hexdigest().startswith("e3b0c44298fc")
