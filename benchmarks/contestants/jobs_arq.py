"""arq as a contestant of ../jobs.py: a worker, or a submitter that prints its seconds.

python jobs_arq.py worker PORT
python jobs_arq.py submit PORT COUNT
"""

import asyncio
import sys
import time
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

CONCURRENCY = 32
# Its default is 0.5 s. This is faster here.
POLL_DELAY = 0.02  # seconds


async def nothing(_context: Any, item: int) -> int:
    return item


async def submit(settings: RedisSettings, count: int) -> None:
    """Do some tasks as a warm-up and then `count` tasks; print the seconds of these."""
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
    asyncio.set_event_loop(asyncio.new_event_loop())  # arq expects one
    main()
