"""A broker in this process, for one machine and for tests."""

import asyncio
from collections import deque

from .brokers import MAX_DEAD_LETTERS, POLL_TIME, Broker, Delivery, Status


class MemoryBroker(Broker):
    """Queues in memory. The worker runs in the same process."""

    def __init__(self, redeliver: float = 30.0) -> None:
        super().__init__(redeliver)
        self._jobs: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._results: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued: set[str] = set()
        self._taken: set[str] = set()
        self.dead_letters: deque[tuple[bytes, str]] = deque(maxlen=MAX_DEAD_LETTERS)

    async def prepare(self) -> None:
        pass

    async def submit(self, job_id: str, message: bytes) -> str:
        self._queued.add(job_id)
        self._jobs.put_nowait((job_id, message))
        return job_id

    async def read_results(self) -> list[bytes]:
        results = [await self._results.get()]
        while not self._results.empty():
            results.append(self._results.get_nowait())
        return results

    async def status(self, receipt: str) -> Status:
        if receipt in self._queued:
            return Status.QUEUED
        if receipt in self._taken:
            return Status.TAKEN
        return Status.GONE

    async def take(self) -> Delivery | None:
        try:
            async with asyncio.timeout(POLL_TIME):
                job_id, message = await self._jobs.get()
        except TimeoutError:
            return None
        self._queued.discard(job_id)
        self._taken.add(job_id)
        return Delivery(message, number=1, receipt=job_id)

    async def touch(self, delivery: Delivery) -> None:
        pass  # this process holds the job as long as it lives

    async def finish(
        self, delivery: Delivery, inbox: str | None, result: bytes
    ) -> None:
        if inbox is not None:
            self._results.put_nowait(result)
        self._taken.discard(delivery.receipt)

    async def keep_dead_letter(self, delivery: Delivery, reason: str) -> None:
        self.dead_letters.append((delivery.message, reason))
