"""Fetch many facts from an API concurrently.

The number of concurrent requests is limited, failed requests are retried, and the whole
run has a deadline.
"""

import asyncio
import json as jsonlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from cyclopts.types import PositiveFloat, PositiveInt

from .client import API_ERRORS, CatFact, Fact, check_positive
from .progress import Progress
from .session import open_session
from .text import mask_credentials, printable

MAX_REASONS = 3  # of failures, in the summary


async def fetch_data(
    api: CatFact,
    count: int,
    *,
    concurrency: int = 10,
    deadline: float = 60.0,
    on_fact: Callable[[Fact], Awaitable[None]] | None = None,
) -> tuple[list[Fact], Counter[str]]:
    """Fetch `count` facts, with at most `concurrency` requests at the same time.

    Returns the facts in order of arrival, and the number of failures by reason. After
    `deadline` seconds the run ends; what has not arrived by then counts as failed.

    `on_fact` is awaited with each fact as it arrives, so a slow consumer slows the
    requests down. An exception in `on_fact` is raised in an ExceptionGroup.

    Raises ValueError if a limit is not positive.
    """
    check_positive(concurrency=concurrency, deadline=deadline)
    ends_at = asyncio.get_running_loop().time() + deadline
    facts: list[Fact] = []
    errors: Counter[str] = Counter()
    # All workers share this iterator: each takes the next number when it is free. So
    # 10,000 facts need only as many tasks as there are concurrent requests.
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            try:
                fact = await api.get_cat_fact(deadline=ends_at)
            except API_ERRORS as error:
                errors[f"{type(error).__name__}: {error}"] += 1
                continue
            if on_fact is not None:
                await on_fact(fact)
            facts.append(fact)

    try:
        async with asyncio.timeout_at(ends_at), asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, count)):
                workers.create_task(worker())
    except TimeoutError:
        missing = count - len(facts) - errors.total()
        if missing > 0:
            errors[f"timed out after {deadline:g} s"] = missing
    return facts, errors


async def main(
    count: PositiveInt = 5,
    *,
    base_url: str = "https://catfact.ninja",
    token: str = "",
    concurrency: PositiveInt = 10,
    timeout: PositiveFloat = 10.0,  # noqa: ASYNC109 - an option of the program
    deadline: PositiveFloat = 60.0,
    attempts: PositiveInt = 5,
    json: bool = False,
) -> int:
    """Print cat facts from an API as they arrive.

    Args:
        count: Number of facts.
        base_url: Base URL of the API.
        token: Bearer token for the API. Use the environment variable, since other users
            of the machine can see the command line.
        concurrency: Maximum number of operations at the same time.
        timeout: Time limit for one attempt, in seconds.
        deadline: Time limit for the whole run, in seconds.
        attempts: Maximum number of attempts.
        json: Print the results as JSON, one object per line.
    """
    progress = Progress("facts", total=count)

    async def show(fact: Fact) -> None:
        if json:
            print(jsonlib.dumps(asdict(fact)))
        else:
            print(printable(fact.fact))
        progress.advance()

    async with open_session() as session:
        try:
            api = CatFact(
                session, base_url, timeout=timeout, attempts=attempts, token=token
            )
        except ValueError as error:
            print(printable(error), file=sys.stderr)
            return 1
        with progress:
            _, errors = await fetch_data(
                api, count, concurrency=concurrency, deadline=deadline, on_fact=show
            )

    if errors:
        print(summary(errors, count), file=sys.stderr)
        return 1
    return 0


def summary(errors: Counter[str], count: int) -> str:
    """Return one line about the failures among `count` facts."""
    reasons = [
        f"{number} x {reason}" for reason, number in errors.most_common(MAX_REASONS)
    ]
    if len(errors) > MAX_REASONS:
        reasons.append("...")
    text = f"{errors.total()} of {count} facts failed: {'; '.join(reasons)}"
    return printable(mask_credentials(text))
