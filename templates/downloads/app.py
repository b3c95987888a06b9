"""Download many files into a folder or a bucket: each of them is there whole, or not at
all.

Bodies pass in small parts, so memory stays flat; what is there already is not sent
again.
"""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
import obstore
import stamina
from cyclopts.types import PositiveFloat, PositiveInt
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

log = logging.getLogger(__name__)
PART = (
    5 * 2**20
)  # bytes: S3 takes no smaller parts; a download holds about two in memory
GRACE = 5.0  # seconds that a cancelled upload has to clear away what it has written
T = TypeVar("T")
OnResult = Callable[[str, str, str], object]


@dataclass(frozen=True, slots=True)
class Downloader:
    """Saves what `session` gets in `store`, with one of the `bars` for each file on its
    way.
    """

    session: aiohttp.ClientSession
    store: ObjectStore
    bars: Progress
    concurrency: int = 8
    attempts: int = 5
    overwrite: bool = False

    async def save(self, url: str, name: str, look: bool = True) -> bool:
        """Save what `url` gives as `name`; return False if it is there in the announced
        size.

        Without a `look` it is replaced. If it fails (`aiohttp.ClientError`, `OSError`,
        obstore's
        `BaseError`) or is cancelled, the store holds what it held before.
        """
        # Compressed on its way, a body would not have the size of the file.
        async with self.session.get(
            url, headers={"Accept-Encoding": "identity"}
        ) as response:
            response.raise_for_status()
            if response.status != 200:
                raise aiohttp.ClientError(
                    f"{response.status} {response.reason}: not a whole file"
                )
            size = (
                None
                if "Content-Encoding" in response.headers
                else response.content_length
            )
            with suppress(FileNotFoundError):
                if (
                    look
                    and (await finish(obstore.head_async(self.store, name)))["size"]
                    == size
                ):
                    return False

            async def pieces() -> AsyncGenerator[bytes]:
                bar = self.bars.add_task(escape(name), total=size)
                try:
                    async for (
                        piece
                    ) in response.content.iter_any():  # raises if it ends too early
                        yield piece
                        self.bars.advance(bar, len(piece))
                finally:
                    self.bars.remove_task(bar)

            async with aclosing(pieces()) as body:
                data = (
                    body
                    if size is None or size > PART
                    else b"".join([it async for it in body])
                )
                on_disk = isinstance(
                    self.store, LocalStore
                )  # faster with what fits a CPU's cache
                part = (
                    2**20 if on_disk else max(PART, (size or 0) // 10_000 + 1)
                )  # S3's most parts
                put = obstore.put_async(
                    self.store, name, data, chunk_size=part, max_concurrency=1
                )
                await finish(put, response.close)
            return True

    async def save_all(self, urls: Iterable[str], on_result: OnResult) -> Counter[str]:
        """Save each URL under its `file_name`; count the states: "saved", "present" and
        "failed".

        `on_result` gets a URL, its state, and its name or the reason. One that fails
        stops no other
        one; the second of one name fails. Raises ValueError if a limit is not positive.
        """
        if min(self.concurrency, self.attempts) < 1:
            raise ValueError(
                f"limits must be positive: {self.concurrency=}, {self.attempts=}"
            )
        states, owners = Counter(saved=0, present=0, failed=0), dict[str, str]()
        turns, look = iter(wanted := dict.fromkeys(urls)), not self.overwrite
        with suppress(
            BaseError
        ):  # nothing is there in an empty store, so nobody needs to look
            look = look and bool(
                await finish(anext(obstore.list(self.store, chunk_size=1), []))
            )

        @stamina.retry(on=backoff, attempts=self.attempts, timeout=None)
        async def save(url: str, name: str) -> str:
            return "saved" if await self.save(url, name, look) else "present"

        async def work() -> None:
            for url in turns:  # one iterator for all workers: each takes the next turn
                try:
                    text = file_name(url)
                    if (owner := owners.setdefault(text, url)) != url:
                        raise FileExistsError(f"{owner} has the same file name")
                    state = await save(url, text)
                except (aiohttp.ClientError, BaseError, OSError, ValueError) as error:
                    state, text = "failed", reason(error)
                states[state] += 1
                on_result(url, state, text)

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self.concurrency, len(wanted))):
                workers.create_task(work())
        return states


async def finish(work: Awaitable[T], undo: Callable[[], object] = lambda: None) -> T:
    """Return what `work` gives; when cancelled, call `undo`, which makes it fail, and
    wait.
    """
    future = asyncio.ensure_future(work)
    try:
        # A store that is cancelled itself leaves parts in its bucket, and panics if
        # Python ends.
        await asyncio.wait([future])
    except asyncio.CancelledError:
        undo()
        await asyncio.wait([future], timeout=GRACE)
        # If it has failed by now, that is no news: `undo` has caused it.
        future.cancel()
        raise
    return future.result()


def file_name(url: str) -> str:
    """Return the last part of the URL's path, decoded; raise ValueError if it is no
    safe name.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("not an http(s) URL")
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    if (
        name in {"", ".", ".."}
        or {*name} & {*"/\\"}
        or name[-1] in ":|"
        or not name.isprintable()
    ):
        raise ValueError(f"not a safe file name: {name!r}")
    return name


def backoff(error: Exception) -> bool | float:
    """Say if `error` is worth another try: no, yes (after a jittered pause), or in n
    seconds.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        after = error.headers.get("Retry-After", "") if error.headers else ""
        pause = (
            min(float(after), 600.0) if after.isdecimal() else True
        )  # nobody waits for hours
        return (error.status == 429 or error.status >= 500) and pause
    return isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError)


def reason(error: Exception) -> str:
    """Say in one line what went wrong."""
    text = str(error) or repr(error)
    if isinstance(error, aiohttp.ClientResponseError):
        text = (
            f"{error.status} {error.message}" if error.status else "too many redirects"
        )
    return "".join(
        filter(str.isprintable, text.partition("\n")[0])
    )  # obstore tells a long story


async def main(
    *urls: str,
    to: str = "downloads",
    from_file: Path | None = None,
    concurrency: PositiveInt = 8,
    attempts: PositiveInt = 5,
    timeout: PositiveFloat = 30.0,  # noqa: ASYNC109 - an option of the program
    overwrite: bool = False,
) -> int:
    """Download files into a folder or a bucket, and print where each of them is.

    Args:
        urls: What to download; each is saved under the last part of its path.
        to: Folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.
        from_file: File with more URLs, one a line.
        concurrency: Most downloads at a time.
        attempts: Most tries for one file.
        timeout: Seconds that a server may stay silent.
        overwrite: Download again what is there already with the same size.
    """
    try:
        listed = (
            await asyncio.to_thread(from_file.read_text, "utf-8-sig")
            if from_file
            else ""
        )
        store = (
            from_url(to)
            if "://" in to
            else await asyncio.to_thread(LocalStore, to, mkdir=True)
        )
    except (BaseError, OSError, ValueError) as error:
        print(f"{from_file or to}: {reason(error)}", file=sys.stderr)
        return 1
    wanted = [*urls, *listed.split()]
    screen, same = (
        sys.stderr.isatty(),
        sys.stdout.isatty(),
    )  # rich may take over only a screen
    bars = Progress(
        console=Console(stderr=True), disable=not screen, redirect_stdout=same
    )
    total = bars.add_task("all files", total=len(set(wanted)))

    def show(url: str, state: str, text: str) -> None:
        line = f"{url}: {text}" if state == "failed" else f"{to}/{text}"
        print(line, file=sys.stderr if state == "failed" else sys.stdout)
        bars.advance(total)

    stamina.instrumentation.set_on_retry_hooks(
        [
            lambda t: log.warning(
                "in %.1f s: %s: %s", t.wait_for, t.args[0], reason(t.caused_by)
            )
        ]
    )
    limits = aiohttp.ClientTimeout(
        connect=min(timeout, 1e9), sock_read=timeout
    )  # inf overflows
    pool = aiohttp.TCPConnector(limit=0)  # `concurrency` is the limit
    async with aiohttp.ClientSession(
        connector=pool, timeout=limits, read_bufsize=2**20
    ) as session:
        with bars:
            job = Downloader(session, store, bars, concurrency, attempts, overwrite)
            states = await job.save_all(wanted, show)
    log.info(", ".join(f"{count} {state}" for state, count in states.items()))
    return 1 if states["failed"] else 0
