"""Ask an API for many facts at once: never too many, never for ever.

Each try has a time limit, failed ones are repeated if that can help, and the run has a
deadline.
To talk to your own API, change `Fact` and `CatFact`.
"""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate, parsedate_to_datetime
from json import dumps, loads
from urllib.parse import urlsplit

import aiohttp
import stamina
from cyclopts.types import PositiveFloat, PositiveInt
from rich.console import Console
from rich.progress import Progress

log = logging.getLogger(__name__)
OnFact = Callable[["Fact"], Awaitable[None]] | None
LARGEST = (
    2**20
)  # bytes of an answer, unpacked; no fact is as long, but an answer may be endless


class AnswerError(ValueError):
    """The API answered with something that is not a fact."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact, as the API sends it."""

    fact: str
    length: int

    @classmethod
    def parse(cls, body: bytes) -> "Fact":
        """Return the fact in a JSON body; raise `AnswerError` if it holds none or is
        too long.
        """
        with suppress(ValueError, RecursionError):
            match len(body) <= LARGEST and loads(body):
                case {"fact": str(fact), "length": int(length)} if not isinstance(
                    length, bool
                ):
                    return cls(fact, length)
        raise AnswerError(f"not a fact: {body[:80]!r}")


@dataclass
class CatFact:
    """The Cat Facts API at `base_url`, asked through the caller's `session`.

    A try may last `timeout` seconds, and a fact gets `attempts` tries. Bad values:
    ValueError.
    """

    session: aiohttp.ClientSession
    base_url: str
    timeout: float = 10.0
    attempts: int = 5

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        host = url.scheme in {"http", "https"} and url.hostname and url.port != 0
        if not host or {*self.base_url} & {*"?#"}:
            raise ValueError("not an http(s) URL, or one with a query or a fragment")
        if not (self.timeout > 0 and self.attempts > 0):
            raise ValueError(
                f"limits must be positive: {self.timeout=}, {self.attempts=}"
            )

    async def get_cat_fact(self) -> Fact:
        """Return a fact; raise AnswerError, ClientError, TimeoutError, UnicodeError
        (bad host).
        """
        try:
            return await self._ask([])
        except (aiohttp.ClientError, TimeoutError) as error:
            # Only a failure enters the retrier, as its first try: it costs as much as a
            # request.
            retry = stamina.AsyncRetryingCaller(attempts=self.attempts, timeout=None)
            return await retry(backoff, self._ask, [error])

    async def _ask(self, failed: list[Exception]) -> Fact:
        if failed:
            raise failed.pop()
        url = f"{self.base_url.rstrip('/')}/fact"
        try:
            async with asyncio.timeout(self.timeout), self.session.get(url) as response:
                response.raise_for_status()
                body = bytearray()
                while len(body) <= LARGEST and (
                    piece := await response.content.readany()
                ):
                    body += piece
                return Fact.parse(bytes(body))
        except TimeoutError:
            raise TimeoutError(f"no answer within {self.timeout:g} s") from None


def backoff(error: Exception) -> bool | float:
    """Say if `error` is worth another try: no, yes (after a jittered pause), or in n
    seconds.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        return (error.status == 429 or error.status >= 500) and retry_after(
            error.headers or {}
        )
    trouble = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
    return isinstance(error, trouble)


def retry_after(headers: Mapping[str, str]) -> bool | float:
    """Return the seconds that the Retry-After header asks for, True if it is missing or
    garbage.
    """
    value = headers.get("Retry-After", "")
    with suppress(ValueError, TypeError, OverflowError):
        if value.isdecimal():
            return float(int(value))  # float("999...") would be infinite
        # The server's own Date is "now": its clock or ours may be wrong.
        now = parsedate_to_datetime(headers.get("Date") or formatdate(usegmt=True))
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    return True


def plain(text: object) -> str:
    """Return a text as one line without escape codes: the API is a stranger on our
    terminal.
    """
    return "".join(c if c.isprintable() else " " for c in str(text))


async def fetch_data(  # noqa: C901
    api: CatFact,
    count: int,
    concurrency: int = 10,
    deadline: float = 60.0,
    on_fact: OnFact = None,
) -> tuple[list[Fact], Counter[str]]:
    """Get `count` facts, at most `concurrency` at a time, within `deadline` seconds in
    all.

    Returns the facts in order of arrival, and how many failed for which reason:
    together `count`.
    `on_fact` is awaited with each fact as it arrives, so a slow one slows the requests
    down; what
    it raises comes in an ExceptionGroup. Raises ValueError if a limit is not positive.
    """
    if not (count >= 0 and concurrency > 0 and deadline > 0):
        raise ValueError(
            f"limits must be positive: {count=}, {concurrency=}, {deadline=}"
        )
    facts, errors, turns = list[Fact](), Counter[str](), iter(range(count))

    async def work() -> None:
        for _ in turns:  # one iterator for all workers: each takes the next turn
            try:
                fact = await api.get_cat_fact()
            except (
                aiohttp.ClientError,
                TimeoutError,
                AnswerError,
                UnicodeError,
            ) as error:
                errors[f"{type(error).__name__}: {error}"] += 1
            else:
                if on_fact:
                    await on_fact(fact)
                facts.append(fact)

    try:
        async with asyncio.timeout(deadline), asyncio.TaskGroup() as workers:
            # Ten workers get 10,000 facts with ten tasks; a semaphore would need 10,000
            # of them.
            for _ in range(min(concurrency, count)):
                workers.create_task(work())
    except TimeoutError:
        errors += Counter(
            {f"not there after {deadline:g} s": count - len(facts) - errors.total()}
        )
    return facts, errors


async def main(
    count: PositiveInt = 5,
    *,
    base_url: str = "https://catfact.ninja",
    concurrency: PositiveInt = 10,
    timeout: PositiveFloat = 10.0,  # noqa: ASYNC109 - an option of the program
    deadline: PositiveFloat = 60.0,
    attempts: PositiveInt = 5,
    json: bool = False,
) -> int:
    """Print cat facts from an API as they arrive.

    Args:
        count: Number of facts.
        base_url: Address of the API.
        concurrency: Most requests at a time.
        timeout: Seconds that one try may last.
        deadline: Seconds that the whole run may last.
        attempts: Most tries for one fact.
        json: Print one JSON object a line.
    """
    stamina.instrumentation.set_on_retry_hooks(
        [
            lambda it: log.warning(
                "next try in %.1f s: %s", it.wait_for, plain(it.caused_by)
            )
        ]
    )
    # rich draws on stderr, and may take over stdout only where both are the same
    # screen.
    screen, same = sys.stderr.isatty(), sys.stdout.isatty()
    bar = Progress(
        console=Console(stderr=True), disable=not screen, redirect_stdout=same
    )
    task = bar.add_task("facts", total=count)

    async def show(fact: Fact) -> None:
        print(dumps(asdict(fact)) if json else plain(fact.fact))
        bar.advance(task)
        if bar.disable and (done := bar.tasks[0].completed) % max(1, count // 10) == 0:
            log.info("%d of %d facts", done, count)

    pool, timeouts = (
        aiohttp.TCPConnector(limit=0),
        aiohttp.ClientTimeout(),
    )  # the options limit it
    async with aiohttp.ClientSession(connector=pool, timeout=timeouts) as session:
        try:
            api = CatFact(session, base_url, timeout=timeout, attempts=attempts)
        except ValueError as error:
            print(f"{base_url!r}: {error}", file=sys.stderr)
            return 1
        with bar:
            _, errors = await fetch_data(api, count, concurrency, deadline, show)
    if errors:
        reasons = "; ".join(f"{n} x {why}" for why, n in errors.most_common(3))
        print(
            f"{errors.total()} of {count} facts failed: {plain(reasons)}",
            file=sys.stderr,
        )
    return 1 if errors else 0
