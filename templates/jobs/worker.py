"""The worker: takes jobs from the broker, does them, and sends the results."""

import asyncio
import logging
from collections.abc import Mapping

from .brokers import Broker, BrokerError, Delivery, Recovery, is_cancelled
from .messages import Job, MessageError, Result
from .tasks import Task
from .text import printable

log = logging.getLogger(__name__)

DRAIN_TIMEOUT = (
    5.0  # seconds that a stopping worker waits for a broker that is not available
)


class Worker:
    """Does up to `concurrency` jobs at the same time.

    `tasks` are the functions that it can call, by name. `recovery` says how long the
    broker may be unavailable.
    """

    def __init__(
        self,
        broker: Broker,
        tasks: Mapping[str, Task],
        *,
        concurrency: int,
        recovery: Recovery,
    ) -> None:
        self.broker = broker
        self.tasks = tasks
        self.concurrency = concurrency
        self.recovery = recovery
        self._deliveries: set[Delivery] = set()
        self._stopping = False

    # --- Starting and stopping

    async def serve(self) -> None:
        """Do jobs until cancelled; then finish those that have begun, and return.

        Raises BrokerError if the broker is not available for too long.
        """
        log.info("ready for jobs, up to %d at the same time", self.concurrency)
        work = asyncio.create_task(self.work())
        try:
            # Unlike `await work`, this does not pass a cancellation on to the jobs.
            await asyncio.wait([work])
        except asyncio.CancelledError:
            log.info("stopping; jobs to finish: %d", len(self._deliveries))
            self._stopping = True
            self.recovery.timeout = min(self.recovery.timeout, DRAIN_TIMEOUT)
        await work

    async def work(self) -> None:
        """Do jobs until cancelled, which cancels the running jobs too."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep_alive())
            slots = [
                group.create_task(self._work_in_slot()) for _ in range(self.concurrency)
            ]
            await asyncio.wait(slots)
            keeper.cancel()

    async def _work_in_slot(self) -> None:
        """Do one job after the other."""
        while not self._stopping:
            try:
                delivery = await self.recovery.call(self.broker.take)
            except BrokerError:
                if self._stopping:
                    return  # other slots may still have jobs to finish
                raise
            if delivery is None:
                continue
            self._deliveries.add(delivery)
            try:
                await self._handle(delivery)
            finally:
                self._deliveries.discard(delivery)

    async def _keep_alive(self) -> None:
        """Send heartbeats for the jobs in work, so that the broker keeps them."""
        while True:
            await asyncio.sleep(self.broker.redeliver / 3)
            for delivery in self._deliveries.copy():
                if delivery not in self._deliveries:
                    continue  # finished in the meantime
                try:
                    await self.broker.touch(delivery)
                except BrokerError as error:
                    log.warning("cannot prolong a job: %s", error)

    # --- One job

    async def _handle(self, delivery: Delivery) -> None:
        """Do the job, send its result and delete it from the broker."""
        try:
            job = Job.decode(delivery.message)
        except MessageError as error:
            await self._set_aside(delivery, str(error))
            await self._finish(delivery, None, b"")
            return

        attempt = job.attempt + delivery.number - 1
        if attempt <= job.max_attempts:
            result = await self._do(job, attempt)
        else:
            reason = f"{delivery.number - 1} workers took it and died or lost it"
            await self._set_aside(delivery, f"{job}: {reason}")
            result = Result(job.id, attempt, error=reason, is_final=True)
        await self._finish(delivery, job.inbox, self._encode(result))

    async def _do(self, job: Job, attempt: int) -> Result:
        """Call the task's function. An exception makes a result, too."""
        task = self.tasks.get(job.task)
        if task is None:
            known = ", ".join(self.tasks)
            error = f"the worker has no task {job.task!r}, only: {known}"
            return Result(job.id, attempt, error=error)
        try:
            value = await task(job.argument)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # The task raised it by itself.
            return Result(job.id, attempt, error="the task was cancelled")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.info("%s failed: %s", job, printable(reason))
            return Result(job.id, attempt, error=reason)
        return Result(job.id, attempt, value)

    def _encode(self, result: Result) -> bytes:
        """Return the message for a result, or for the reason why it cannot be sent."""
        try:
            return result.encode(self.broker.max_message_bytes)
        except MessageError as error:
            reason = str(error)
        failure = Result(result.job_id, result.attempt, error=reason, is_final=True)
        return failure.encode()

    async def _finish(
        self, delivery: Delivery, inbox: str | None, result: bytes
    ) -> None:
        try:
            await self.recovery.call(self.broker.finish, delivery, inbox, result)
        except BrokerError as error:
            # It was not deleted, so the broker will deliver it again.
            log.error("cannot send a result: %s", error)

    async def _set_aside(self, delivery: Delivery, reason: str) -> None:
        log.error("set aside as a dead letter: %s", printable(reason))
        try:
            await self.recovery.call(self.broker.keep_dead_letter, delivery, reason)
        except BrokerError as error:
            log.error("cannot store a dead letter: %s", error)
