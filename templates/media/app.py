"""Make thumbnails, edge maps and sounds of equal loudness from the files in a folder.

Worker processes do the work, so all cores are busy and the event loop is free. To add a
kind of file, see plan.py.
"""

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cyclopts.types import PositiveFloat, PositiveInt

from .plan import Job, Plan, Settings, delete_leftovers, make_plan
from .progress import Progress
from .report import Report, Result
from .text import printable
from .worker import Worker, WorkerError

log = logging.getLogger(__name__)


async def convert_all(
    jobs: Sequence[Job],
    new_worker: Callable[[], Worker],
    on_result: Callable[[Result], None],
    *,
    workers: int,
    timeout: float = 300.0,  # noqa: ASYNC109 - per attempt, not for the whole call
    attempts: int = 2,
) -> None:
    """Convert files with `workers` worker processes, each made by `new_worker`.

    Calls `on_result` for each file as soon as it is done. A file is attempted again, in
    a new process, if its process dies or takes longer than `timeout` seconds.
    """
    # All tasks share this iterator: each takes the next file when it is free.
    remaining = iter(jobs)

    async def run_worker() -> None:
        async with new_worker() as worker:
            for job in remaining:
                result = await convert_one(worker, job, timeout, attempts)
                on_result(result)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(workers, len(jobs))):
            group.create_task(run_worker())


async def convert_one(
    worker: Worker,
    job: Job,
    timeout: float,  # noqa: ASYNC109 - per attempt
    attempts: int,
) -> Result:
    """Return the result for one file, after at most `attempts` attempts."""
    reason = ""
    for _ in range(attempts):
        try:
            # The start does not count, since it includes importing large libraries.
            if not worker.is_running:
                await worker.start()
            async with asyncio.timeout(timeout):
                return await worker.convert(job)
        except WorkerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"not finished within {timeout:g} s"
        await worker.kill()
    return Result(job.source, job.outputs, error=reason)


@asynccontextmanager
async def unfinished_folder(to: Path) -> AsyncIterator[Path]:
    """Make a hidden folder in `to` for unfinished files; remove it afterwards.

    It is in `to` because a rename replaces a file in one step only on the same file
    system. Raises OSError if it cannot be made.
    """
    folder = to / f".unfinished-{os.urandom(8).hex()}"
    try:
        await asyncio.to_thread(folder.mkdir, parents=True)
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def run_plan(
    plan: Plan,
    folder: Path,
    settings: Settings,
    report: Report,
    *,
    workers: int,
    timeout: float,  # noqa: ASYNC109 - per attempt
    attempts: int,
) -> None:
    """Convert the files of a plan, with a progress bar; add the results to `report`."""
    modules = sorted({job.kind.module for job in plan.jobs})

    def new_worker() -> Worker:
        return Worker(folder, settings, modules)

    with Progress("files", total=len(plan.jobs)) as progress:

        def on_result(result: Result) -> None:
            report.add(result)
            progress.advance()

        await convert_all(
            plan.jobs,
            new_worker,
            on_result,
            workers=workers,
            timeout=timeout,
            attempts=attempts,
        )


async def main(
    source: Path,
    *,
    to: Path,
    size: PositiveInt = 512,
    loudness: float = -16.0,
    max_megapixels: PositiveFloat = 250.0,
    vision: bool = True,
    prune: bool = False,
    workers: PositiveInt | None = None,
    timeout: PositiveFloat = 300.0,  # noqa: ASYNC109 - an option of the program
    attempts: PositiveInt = 2,
    json: bool = False,
) -> int:
    """Make thumbnails, edge maps and sounds of equal loudness from a folder of files.

    Only what is new or has changed is made.

    Args:
        source: Folder with pictures and sounds.
        to: Folder for the outputs, with the same subfolders.
        size: Maximum width and height of a thumbnail, in pixels.
        loudness: Loudness of the sounds, in LUFS.
        max_megapixels: Maximum size of a picture, in millions of pixels.
        vision: Find the edges, the sharpness and the QR codes of the pictures.
        prune: Delete outputs whose sources do not exist any more.
        workers: Number of worker processes; by default, one for each CPU core.
        timeout: Time limit for one attempt, in seconds.
        attempts: Maximum number of attempts.
        json: Print the results as JSON, one object per line.
    """
    report = Report(as_json=json)
    deleted: list[Path] = []
    try:
        settings = Settings(size, loudness, max_megapixels, vision)
        plan = await asyncio.to_thread(make_plan, source, to, settings)
        if prune:
            deleted = await asyncio.to_thread(delete_leftovers, source, to, plan)
    except (OSError, ValueError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    report.add_plan(plan, deleted)

    if plan.jobs:
        try:
            async with unfinished_folder(to) as folder:
                await run_plan(
                    plan,
                    folder,
                    settings,
                    report,
                    workers=workers or os.cpu_count() or 1,
                    timeout=timeout,
                    attempts=attempts,
                )
        # From `unfinished_folder`. Errors of the tasks would come as an ExceptionGroup.
        except OSError as error:
            print(printable(error), file=sys.stderr)
            return 1
    log.info("%s", report.summary())
    return 1 if report.failed else 0
