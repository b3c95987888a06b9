"""Worker and submitter with arq, for ../jobs.py. The submitter prints its seconds.

    python jobs_arq.py worker PORT
    python jobs_arq.py submit PORT COUNT

PORT is that of a Redis server.
"""

import asyncio
import sys
import time
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

CONCURRENCY = 32
POLL_DELAY = 0.02  # seconds; faster here than arq's default of 0.5


async def nothing(_context: Any, item: int) -> int:
    return item


async def submit(settings: RedisSettings, count: int) -> None:
    """Do 100 tasks as a warm-up, then `count` tasks and time these."""
    pool = await create_pool(settings)
    await do(pool, 100)
    started = time.perf_counter()
    await do(pool, count)
    print(time.perf_counter() - started)
    await pool.aclose()


async def do(pool: ArqRedis, count: int) -> None:
    free = asyncio.Semaphore(CONCURRENCY)

    async def work(item: int) -> None:
        async with free:
            job = await pool.enqueue_job("nothing", item)
            assert job is not None
            assert await job.result(poll_delay=POLL_DELAY) == item

    async with asyncio.TaskGroup() as group:
        for item in range(count):
            group.create_task(work(item))


def main() -> None:
    settings = RedisSettings(host="127.0.0.1", port=int(sys.argv[2]))
    if sys.argv[1] == "submit":
        asyncio.run(submit(settings, int(sys.argv[3])))
        return
    worker = Worker(
        functions=[nothing],
        redis_settings=settings,
        max_jobs=CONCURRENCY,
        poll_delay=POLL_DELAY,
    )
    print("ready", flush=True)
    worker.run()


if __name__ == "__main__":
    # arq expects a current event loop.
    asyncio.set_event_loop(asyncio.new_event_loop())
    main()
