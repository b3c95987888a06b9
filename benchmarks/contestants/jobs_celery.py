"""Worker and submitter with Celery, for ../jobs.py. The submitter prints its seconds.

    python jobs_celery.py worker PORT
    python jobs_celery.py submit PORT COUNT

PORT is that of a Redis server.
"""

import sys
import time

from celery import Celery, group

URL = f"redis://127.0.0.1:{sys.argv[2]}"

app = Celery("jobs", broker=URL, backend=URL)
# As in the starter, another worker does the task of a worker that has died.
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=4)


def nothing(item: int) -> int:
    return item


task = app.task(nothing, name="nothing")


def do(count: int) -> None:
    results = group(task.s(item) for item in range(count)).apply_async()
    assert results.get() == list(range(count))


def main() -> None:
    if sys.argv[1] == "submit":
        do(100)
        started = time.perf_counter()
        do(int(sys.argv[3]))
        print(time.perf_counter() - started)
        return
    print("ready", flush=True)
    app.worker_main(["worker", "--pool=solo", "--loglevel=ERROR", "--without-gossip"])


if __name__ == "__main__":
    main()
