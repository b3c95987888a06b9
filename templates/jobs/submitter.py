"""The submitter: sends jobs to the broker and waits for their results."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .brokers import Broker, BrokerError, BrokerUnavailableError, Recovery, Status
from .messages import Job, MessageError, Result
from .text import printable

log = logging.getLogger(__name__)

WATCH_INTERVAL = 5.0  # seconds between two checks of the jobs that have no result
WARNING_INTERVAL = 60.0  # seconds between two warnings that no worker takes jobs
MAX_WATCHED = 100  # jobs; with more, only the oldest ones are looked at
MAX_PAUSE = 10.0  # seconds before another attempt


@dataclass(eq=False, slots=True)
class Pending:
    """A job without a result. `receipt` is empty until the broker has the job."""

    job: Job
    result: asyncio.Future[Result]
    submitted_at: float = 0.0
    receipt: str = ""
    status: Status = Status.QUEUED


@dataclass(eq=False)
class Submitter:
    """Submits jobs, at most `concurrency` at the same time.

    Each attempt may take `timeout` seconds, including the time in the queue; a task is
    attempted up to `attempts` times. `recovery` retries the operations of the broker.
    Raises ValueError if a limit is not positive.
    """

    broker: Broker
    recovery: Recovery
    concurrency: int = 32
    attempts: int = 3
    timeout: float = 3600.0
    _pending: dict[str, Pending] = field(default_factory=dict)
    _warned_at: float | None = None

    def __post_init__(self) -> None:
        if min(self.concurrency, self.attempts, self.timeout) <= 0:
            raise ValueError(
                "must be positive: "
                f"{self.concurrency=}, {self.attempts=}, {self.timeout=}"
            )

    async def run(
        self,
        task: str,
        arguments: Iterable[Any],
        report: Callable[[Any, Result], None],
    ) -> None:
        """Do `task` for all arguments; report each one once, with its result.

        Raises BrokerError if the broker is not available for too long.
        """
        free = asyncio.Semaphore(self.concurrency)

        async def work(argument: Any) -> None:
            try:
                report(argument, await self._result_of(task, argument))
            finally:
                free.release()

        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read_results())
            watcher = group.create_task(self._watch())
            async with asyncio.TaskGroup() as jobs:
                for argument in arguments:
                    # Before the job exists: 10,000 arguments are not 10,000 tasks.
                    await free.acquire()
                    jobs.create_task(work(argument))
            reader.cancel()
            watcher.cancel()

    # --- Attempts

    async def _result_of(self, task: str, argument: Any) -> Result:
        """Make attempts until one succeeds or there have been enough."""
        attempt = 1
        while True:
            job = Job(task, argument, self.broker.inbox, attempt, self.attempts)
            result = await self._attempt(job)
            if result.error is None or result.is_final:
                return result
            if result.attempt >= self.attempts:
                return result
            pause = pause_after(result.attempt)
            log.warning(
                "attempt %d of %d failed, the next one follows in %.1f s: %s: %s",
                result.attempt,
                self.attempts,
                pause,
                job,
                printable(result.error),
            )
            await asyncio.sleep(pause)
            attempt = result.attempt + 1

    async def _attempt(self, job: Job) -> Result:
        """Submit a job and wait for its result. Every failure makes a result, too."""
        loop = asyncio.get_running_loop()
        pending = Pending(job, loop.create_future(), loop.time())
        self._pending[job.id] = pending
        try:
            async with asyncio.timeout(self.timeout):
                await self._submit(pending)
                return await pending.result
        except TimeoutError:
            reason = f"no result within {self.timeout:g} s: {pending.status.value}"
            return Result(job.id, job.attempt, error=reason)
        except MessageError as error:
            return Result(job.id, job.attempt, error=str(error), is_final=True)
        except BrokerUnavailableError:
            raise
        except BrokerError as error:
            return Result(job.id, job.attempt, error=str(error))
        finally:
            del self._pending[job.id]

    async def _submit(self, pending: Pending) -> None:
        message = pending.job.encode(self.broker.max_message_bytes)
        job_id = pending.job.id
        pending.receipt = await self.recovery.call(self.broker.submit, job_id, message)

    # --- Results

    async def _read_results(self) -> None:
        """Pass results to those who wait for them, as they arrive."""
        while True:
            for message in await self.recovery.call(self.broker.read_results):
                try:
                    result = Result.decode(message)
                except MessageError as error:
                    log.warning("ignored: %s", error)
                else:
                    self._settle(result)

    def _settle(self, result: Result) -> None:
        pending = self._pending.get(result.job_id)
        # A job that is delivered twice has two results.
        if pending is not None and not pending.result.done():
            pending.result.set_result(result)

    # --- Looking after jobs that have no result

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            await self.recovery.call(self.broker.prepare)
            latest = asyncio.get_running_loop().time() - WATCH_INTERVAL
            watched = [
                pending
                for pending in list(self._pending.values())[:MAX_WATCHED]
                if pending.receipt and pending.submitted_at <= latest
            ]
            for pending in watched:
                await self._look_at(pending)
            self._warn_if_nothing_moves(watched)

    async def _look_at(self, pending: Pending) -> None:
        """Update the job's status. A job that is lost fails."""
        before = pending.status
        pending.status = await self.recovery.call(self.broker.status, pending.receipt)
        # Between two checks, the result of a finished job would have arrived.
        if before == pending.status == Status.GONE:
            job = pending.job
            reason = "the broker has lost the job or its result"
            self._settle(Result(job.id, job.attempt, error=reason))

    def _warn_if_nothing_moves(self, watched: list[Pending]) -> None:
        if not watched:
            return
        if any(pending.status != Status.QUEUED for pending in watched):
            return
        now = asyncio.get_running_loop().time()
        if self._warned_at is not None and now - self._warned_at < WARNING_INTERVAL:
            return
        self._warned_at = now
        waited = now - watched[0].submitted_at
        log.warning(
            "no worker has taken a job for %.0f s (%d are waiting): is one running, "
            "with --worker and the same --broker-url?",
            waited,
            len(self._pending),
        )


def pause_after(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt: exponential, with jitter."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - so that retries spread out
    return min(MAX_PAUSE, 0.2 * 2.0 ** (attempt - 1)) * jitter
