"""Download several files at a time, with retries, and resume interrupted downloads."""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import aiohttp

from .file_names import FileNames
from .progress import Progress
from .responses import (
    ChecksumError,
    DecompressedBody,
    IncompleteError,
    ResponseBody,
    VerifiedBody,
    check_range,
    check_status,
    is_answer_to_range,
    is_unchanged,
    resume_headers,
)
from .retries import RateLimit, RateLimitError, is_temporary, retry
from .storage import Body, Storage
from .text import printable
from .url_list import Source, encode_url
from .versions import Part, Version, hash_of_url

log = logging.getLogger(__name__)

# seconds; how long the rate limit of a server may delay the attempts for one file
MAX_WAIT = 600.0

# These errors end the download of one file. Any other error is a bug, and ends all.
EXPECTED_ERRORS = (aiohttp.ClientError, RateLimitError, OSError, ValueError)

Status = Literal["saved", "up to date", "failed"]


@dataclass(frozen=True)
class Result:
    """The result for one source: it was saved, was up to date already, or failed.

    `name` is the name of the file. If the download failed, it is None, and `error` is
    the reason.
    """

    source: Source
    status: Status
    name: str | None = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Downloader:
    """Downloads files with `session` into `storage`.

    With `decompress`, servers may compress files to transfer them, and the files are
    stored decompressed. The download of such a file cannot be resumed, and its checksum
    is that of the stored bytes.

    Raises ValueError if `concurrency` or `attempts` is not positive.
    """

    session: aiohttp.ClientSession
    storage: Storage
    progress: Progress = field(default_factory=partial(Progress, "files"))
    concurrency: int = 8
    attempts: int = 5
    overwrite: bool = False
    decompress: bool = False
    # There is one for each host, so a busy server does not delay the others.
    rate_limits: defaultdict[str | None, RateLimit] = field(
        default_factory=lambda: defaultdict(RateLimit), init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(
                f"limits must be positive: {self.concurrency=}, {self.attempts=}"
            )

    # --- All files

    async def download_all(
        self, sources: Iterable[Source], on_result: Callable[[Result], object]
    ) -> None:
        """Download all sources, and call `on_result` with the result of each.

        A source that fails does not stop the others.
        """
        names = FileNames()
        waiting = iter(sources)

        async def work() -> None:
            # All workers share one iterator, so each source is taken by one of them.
            for source in waiting:
                on_result(await self._result(source, names))

        async with asyncio.TaskGroup() as workers:
            for _ in range(self.concurrency):
                workers.create_task(work())

    async def _result(self, source: Source, names: FileNames) -> Result:
        try:
            name = names.claim(source.url)
            status = await self.download(source, name)
        except EXPECTED_ERRORS as error:
            return Result(source, "failed", error=error)
        return Result(source, status, name)

    # --- One file

    async def download(self, source: Source, name: str) -> Status:
        """Save a source as `name`, unless the storage has its current version.

        Temporary errors are retried. If all attempts have failed, but the saved part
        has grown, they start again: a large file is completed in the end, even if the
        server cuts every response. Raises one of EXPECTED_ERRORS.
        """
        loop = asyncio.get_running_loop()
        host = encode_url(source.url).host
        while True:
            size_before = await self._part_size(name)
            try:
                return await retry(
                    partial(self._attempt, source, name),
                    attempts=self.attempts,
                    rate_limit=self.rate_limits[host],
                    deadline=loop.time() + MAX_WAIT,
                )
            except EXPECTED_ERRORS as error:
                if not is_temporary(error):
                    raise
                if await self._part_size(name) <= size_before:
                    raise

    async def _part_size(self, name: str) -> int:
        part = await self.storage.part(name)
        if part is None:
            return 0
        return part.size

    # --- One attempt

    async def _attempt(self, source: Source, name: str) -> Status:
        part = await self._resumable_part(source, name)
        finished = await self._finished_version(source, name)
        headers = self._headers(part, finished)
        url = encode_url(source.url)
        async with self.session.get(url, headers=headers) as response:
            if finished is not None and is_unchanged(response, finished, source.url):
                return "up to date"
            if part is not None and is_answer_to_range(response):
                await self._check_range(response, part, name)
            else:
                # The server answers a request for the rest with the whole file if the
                # file has changed, or if it does not support ranges.
                check_status(response)
                part = None
            await self._save(response, source, name, part)
        return "saved"

    def _headers(self, part: Part | None, finished: Version | None) -> dict[str, str]:
        """Return the headers of a request, given what is stored already."""
        if part is not None:
            return {"Accept-Encoding": "identity", **resume_headers(part)}
        headers = {"Accept-Encoding": "identity"}
        if self.decompress:
            headers = {"Accept-Encoding": "gzip, deflate"}
        if finished is not None and finished.etag is not None:
            headers["If-None-Match"] = finished.etag
        return headers

    async def _resumable_part(self, source: Source, name: str) -> Part | None:
        part = await self.storage.part(name)
        if part is None or not part.can_resume(source.url):
            return None
        if not part.version.is_stored_with(decompress=self.decompress):
            return None
        return part

    async def _finished_version(self, source: Source, name: str) -> Version | None:
        if self.overwrite:
            return None
        version = await self.storage.finished(name)
        if version is None or version.url_sha256 != hash_of_url(source.url):
            return None
        if source.sha256 not in {None, version.sha256}:
            return None  # it was not verified against this checksum
        if not version.is_stored_with(decompress=self.decompress):
            return None
        return version

    async def _check_range(
        self, response: aiohttp.ClientResponse, part: Part, name: str
    ) -> None:
        try:
            check_range(response, part)
        except IncompleteError:
            # Without the part, the next attempt requests the whole file.
            await self.storage.discard_part(name)
            raise

    async def _save(
        self,
        response: aiohttp.ClientResponse,
        source: Source,
        name: str,
        part: Part | None,
    ) -> None:
        """Save the body of a response: a whole file, or the rest of one."""
        if part is None:
            version = self._version(response, source, name)
            offset = 0
        else:
            version = part.version
            offset = part.size
        remaining = None if version.size is None else version.size - offset
        with self.progress.track(name, version.size, offset) as advance:
            body: Body = ResponseBody(response, remaining, advance)
            if version.encoding is not None and version.decompressed:
                body = DecompressedBody(body, version.encoding)
            if source.sha256 is not None:
                digest = await self._digest(name, offset)
                body = VerifiedBody(body, source.sha256, digest)
            try:
                await self.storage.save(name, version, body, offset)
            except ChecksumError:
                await self.storage.discard_part(name)
                raise

    def _version(
        self, response: aiohttp.ClientResponse, source: Source, name: str
    ) -> Version:
        """Return the version of the file in a response, as it will be stored."""
        version = Version.of(response, source.url)
        if version.encoding is not None and not self.decompress:
            encoding = printable(version.encoding)
            log.warning("%s is stored as sent, with encoding %s", name, encoding)
        return replace(
            version,
            sha256=source.sha256,
            decompressed=version.encoding is not None and self.decompress,
        )

    async def _digest(self, name: str, offset: int) -> "hashlib._Hash":
        """Return the hash of what was saved before `offset`."""
        if offset == 0:
            return hashlib.sha256()
        return await self.storage.part_sha256(name)
