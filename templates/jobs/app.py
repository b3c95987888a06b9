"""Checksum every file of a folder tree, in this process or on a fleet of workers.

Each file is a job. The same program submits jobs, and does them when it is started with
--worker. The URL of the broker says which workers and submitters belong together.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators
from cyclopts.types import PositiveInt

from .brokers import BrokerError, Recovery, connected
from .memory_broker import MemoryBroker
from .messages import Result
from .progress import Progress
from .submitter import Submitter
from .tasks import TASKS
from .text import mask_credentials, printable
from .worker import Worker

log = logging.getLogger(__name__)

# Not infinity and not more than a day: brokers store these numbers as integers.
Seconds = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=86_400))]


async def main(
    folder: Path = Path(),
    *,
    worker: bool = False,
    broker_url: str = "memory://",
    concurrency: PositiveInt = 32,
    attempts: PositiveInt = 3,
    timeout: Seconds = 3600.0,  # noqa: ASYNC109 - it is an option
    redeliver: Seconds = 30.0,
    reconnect_timeout: Seconds = 300.0,
) -> int:
    """Print the size and the checksum of each file in a folder tree, as JSON lines.

    Args:
        folder: The folder. All workers must see it under the same path.
        worker: Do the jobs that other programs submit, until a signal stops it.
        broker_url: Where jobs go: memory:// (this process), nats://host, redis://host.
        concurrency: Maximum number of operations at the same time.
        attempts: Maximum number of attempts.
        timeout: Time limit for one attempt, in seconds.
        redeliver: Time without a heartbeat from a worker, in seconds, after which
            another worker gets its jobs. The same for all workers.
        reconnect_timeout: Time limit for the server to come back, in seconds.
    """
    recovery = Recovery(reconnect_timeout)
    try:
        if worker:
            await run_worker(broker_url, concurrency, redeliver, recovery)
            return 0
        async with connected(broker_url, redeliver) as broker:
            submitter = Submitter(broker, recovery, concurrency, attempts, timeout)
            return await describe_tree(folder, submitter)
    except* BrokerError as group:
        print_error(first_error(group))
    return 1


async def run_worker(
    broker_url: str, concurrency: int, redeliver: float, recovery: Recovery
) -> None:
    """Do jobs until cancelled; then finish those that have begun. Raises BrokerError.

    A worker that is stopped has done what it should. So this returns after a
    cancellation, and the exit status is 0.
    """
    if broker_url.startswith("memory:"):
        reason = "no other program can reach memory://, so a worker needs --broker-url"
        raise BrokerError(reason)
    try:
        async with connected(broker_url, redeliver) as broker:
            worker = Worker(broker, TASKS, concurrency=concurrency, recovery=recovery)
            await worker.serve()
    except asyncio.CancelledError:
        log.info("stopped before the first job")


async def describe_tree(folder: Path, submitter: Submitter) -> int:
    """Print a line for each file of the tree; return the exit status.

    Raises BrokerError if the broker is not available for too long.
    """
    # Workers may have another working directory.
    root = await asyncio.to_thread(folder.resolve)
    files, failures = await asyncio.to_thread(find_files, root)
    with Progress("files", len(files)) as progress:

        def report(path: str, result: Result) -> None:
            line: dict[str, Any] = {"path": Path(path).relative_to(root).as_posix()}
            if result.error is None:
                line.update(result.value)
            else:
                line["error"] = result.error
                failures.append(Failure(path, result.error))
            print(json.dumps(line))
            progress.advance()

        async with local_worker(submitter):
            await submitter.run("describe", files, report)
    if not failures:
        return 0
    first = failures[0]
    print_error(f"{len(failures)} failed; the first one is {first.path}: {first.error}")
    return 1


@asynccontextmanager
async def local_worker(submitter: Submitter) -> AsyncIterator[None]:
    """Do the jobs of a broker in memory here, during the block."""
    broker = submitter.broker
    if not isinstance(broker, MemoryBroker):
        yield
        return
    worker = Worker(
        broker,
        TASKS,
        concurrency=submitter.concurrency,
        recovery=submitter.recovery,
    )
    async with asyncio.TaskGroup() as group:
        work = group.create_task(worker.work())
        yield
        work.cancel()


@dataclass(frozen=True)
class Failure:
    """Something that could not be described, and why."""

    path: str
    error: str


def find_files(root: Path) -> tuple[list[str], list[Failure]]:
    """Return the paths of all files below `root`, and the folders that failed."""
    failures: list[Failure] = []

    def note(error: OSError) -> None:
        failures.append(Failure(str(error.filename), error.strerror or str(error)))

    files: list[str] = []
    for parent, _, names in os.walk(root, onerror=note):
        paths = [os.path.join(parent, name) for name in names]
        # Not pipes and sockets: reading one could wait without an end.
        files += [path for path in paths if os.path.isfile(path)]
    return sorted(files), failures


def first_error(group: BaseException) -> BaseException:
    """Return the first error in a group that may contain groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def print_error(message: object) -> None:
    """Print a message on one line of stderr, without the passwords in URLs."""
    print(mask_credentials(printable(message)), file=sys.stderr)
