"""Checksum every file of a folder tree, here or on a fleet: the broker's URL alone says
where.
"""

import asyncio
import hashlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import stamina
import taskiq
from cyclopts import Parameter, types, validators
from rich.console import Console
from rich.progress import Progress

log = logging.getLogger(__name__)
QUEUE = __name__.replace(
    ".", "-"
)  # on the broker, where other programs have other names
Seconds = Annotated[
    float, Parameter(validator=validators.Number(gt=0, lte=1e9))
]  # not inf
steadily = stamina.AsyncRetryingCaller(None, None, 0.02, 0.5, 0.05).on(
    lambda _: go_on()
)


@taskiq.async_shared_broker.task
async def describe(path: str) -> dict[str, int | str]:
    """Return the size and checksum of a file. Done twice, as may happen, it does no
    harm.
    """
    digest, size = hashlib.sha256(), 0
    with await asyncio.to_thread(open, path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, 1 << 20):
            await asyncio.to_thread(digest.update, chunk)
            size += len(chunk)  # of what is in the checksum: the file may grow
    return {"size": size, "sha256": digest.hexdigest()}


def go_on() -> (
    bool
):  # `steadily` is for ever, as a broker may be away: whoever waits sets a limit
    if (me := asyncio.current_task()) and me.cancelling():
        # Libraries swallow it, or take it for an error of the task.
        raise asyncio.CancelledError
    return True


async def run(
    broker: taskiq.AsyncBroker,
    task: taskiq.AsyncTaskiqDecoratedTask[[str], Coroutine[Any, Any, Any]],
    items: Iterable[str],
    report: Callable[[str, Any], object],
    concurrency: int = 32,
    attempts: int = 3,
    result_ttl: float = 3600.0,
) -> None:
    """Do `task` for all `items`, at most `concurrency` at a time and each at most
    `attempts` times;
    report each once, with its result or an exception. ValueError if a limit is not
    positive."""
    if not min(concurrency, attempts, result_ttl) > 0:
        raise ValueError(
            f"must be positive: {concurrency=}, {attempts=}, {result_ttl=}"
        )
    free = asyncio.Semaphore(concurrency)

    @stamina.retry(on=(RuntimeError, TimeoutError), attempts=attempts, timeout=None)
    async def result_for(item: str) -> Any:
        async with asyncio.timeout(result_ttl):
            job = await steadily(task.kicker().with_broker(broker).kiq, item)
            result = await steadily(job.get_result)
            if result.is_err and go_on():
                raise RuntimeError(f"{type(result.error).__name__}: {result.error}")
        return result.return_value

    async def work(item: str) -> None:
        try:
            outcome = await result_for(item)
        except (RuntimeError, TimeoutError) as error:
            outcome = error
        report(item, outcome)

    async with asyncio.TaskGroup() as group:
        for item in items:
            await (
                free.acquire()
            )  # before there is a task: 10,000 items do not mean 10,000 waiters
            group.create_task(work(item)).add_done_callback(lambda _: free.release())


class Results(taskiq.AsyncResultBackend[Any]):
    """Results in a JetStream bucket: those of taskiq-nats may hang when the broker
    restarts.
    """

    bucket: Any

    async def set_result(self, task_id: str, result: taskiq.TaskiqResult[Any]) -> None:
        await steadily(
            self.bucket.put, task_id, result.model_dump_json(fallback=str).encode()
        )

    async def get_result(
        self, task_id: str, with_logs: bool = False
    ) -> taskiq.TaskiqResult[Any]:
        return taskiq.TaskiqResult.model_validate_json(
            (await self.bucket.get(task_id)).value
        )

    async def is_result_ready(self, task_id: str) -> bool:
        return bool(await self.get_result(task_id))


@asynccontextmanager
async def connected(
    url: str, places: int = 32, result_ttl: float = 3600.0, redeliver: float = 300.0
) -> AsyncIterator[taskiq.AsyncBroker]:
    """Connect to the broker at `url`, or raise what its library does; then
    disconnect.
    """
    match url.partition("://")[0]:
        case (
            "memory"
        ):  # a result stays until others push it out: each submitter needs a place
            broker: Any = taskiq.InMemoryBroker(
                await_inplace=True, max_stored_results=places
            )
        case "nats" | "tls":
            from nats.js import api
            from taskiq_nats import PullBasedJetStreamBroker

            async def tell(news: object) -> None:
                if not broker.client.is_closed:
                    log.warning("broker: %s", news)

            broker = PullBasedJetStreamBroker(
                *(url, QUEUE, QUEUE, None, QUEUE),
                stream_config=api.StreamConfig(
                    retention=api.RetentionPolicy.WORK_QUEUE
                ),
                consumer_config=api.ConsumerConfig(
                    durable_name=QUEUE, ack_wait=redeliver
                ),
                # Then asks again: a broker that restarts forgets it.
                pull_consume_timeout=1.0,
                disconnected_cb=partial(tell, "gone; tasks wait until it is back"),
                reconnected_cb=partial(tell, "back; the work goes on"),
                **dict[str, Any](
                    max_reconnect_attempts=-1, reconnect_time_wait=0.5, error_cb=tell
                ),
            ).with_result_backend(Results())
        case "redis" | "rediss":
            from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

            wait: Any = {
                "idle_timeout": int(redeliver * 1000),
                "unacknowledged_lock_timeout": 10,
            }
            broker = RedisStreamBroker(
                url, QUEUE, xread_count=1, maxlen=100_000, **wait
            )
            broker.result_backend = RedisAsyncResultBackend(
                url, result_ex_time=int(result_ttl) + 1
            )
            broker.result_backend.serializer = (
                taskiq.serializers.JSONSerializer()
            )  # not pickle
        case _:
            raise ValueError("not memory://, nats://host or redis://host")
    await asyncio.wait_for(broker.startup(), 10)
    try:
        if hasattr(broker, "js"):
            with suppress(Exception):  # it may be there, with another time to live
                await broker.js.create_key_value(bucket=QUEUE, ttl=result_ttl)
            broker.result_backend.bucket = await broker.js.key_value(QUEUE)
        yield broker
    finally:
        await asyncio.gather(
            broker.shutdown(), return_exceptions=True
        )  # it may be gone


async def main(  # noqa: C901
    folder: Path = Path(),
    *,
    worker: bool = False,
    broker_url: str = "memory://",
    concurrency: types.PositiveInt = 32,
    attempts: types.PositiveInt = 3,
    result_ttl: Seconds = 3600.0,
    redeliver: Seconds = 300.0,
) -> int:
    """Print the size and the checksum of each file of a folder tree, as a line of JSON.

    Args:
        folder: The folder; with workers, one that all machines see under this name.
        worker: Do the tasks that others submit, until stopped.
        broker_url: Where tasks go: memory:// (this process), nats://host or redis://host.
        concurrency: Most tasks at a time: submitted and not yet done, or done by this
        worker.
        attempts: Most tries for one file.
        result_ttl: Seconds that a result is kept, and waited for.
        redeliver: Seconds after which a task not yet done is given to another worker.
    """
    for library in (
        "stamina",
        "taskiq",
    ):  # for a worker's log; here, results tell the same
        logging.getLogger(library).setLevel(
            logging.INFO if worker else logging.CRITICAL
        )
    failed, root = (
        dict[str, str](),
        await asyncio.to_thread(folder.resolve),
    )  # as others know it
    walk = os.walk(
        root, onerror=lambda error: failed.update({str(error.filename): str(error)})
    )
    paths = (os.path.join(parent, name) for parent, _, names in walk for name in names)
    connection = connected(broker_url, concurrency, result_ttl, redeliver)
    async with AsyncExitStack() as stack:
        try:
            broker = await stack.enter_async_context(connection)
            if worker and isinstance(broker, taskiq.InMemoryBroker):
                raise ValueError(
                    "nobody else reaches it: a worker needs another --broker-url"
                )
        except Exception as error:  # each broker's library has its own
            print(f"no broker at {broker_url}: {error!r}", file=sys.stderr)
            return 1
        if worker:
            tasks = taskiq.receiver.Receiver(
                broker, None, True, concurrency, run_startup=False
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(steadily(tasks.listen, stop := asyncio.Event()))
                with suppress(
                    asyncio.CancelledError
                ):  # others wait for what was begun: finish it
                    await stop.wait()
                stop.set()
            return 0
        found = await asyncio.to_thread(lambda: sorted(filter(os.path.isfile, paths)))
        screen, same = (
            sys.stderr.isatty(),
            sys.stdout.isatty(),
        )  # rich may take over stdout if same
        bar = Progress(
            console=Console(stderr=True), disable=not screen, redirect_stdout=same
        )
        task = stack.enter_context(bar).add_task("files", total=len(found))

        def report(path: str, result: dict[str, Any] | Exception) -> None:
            if isinstance(result, Exception):
                result = {
                    "error": failed.setdefault(path, str(result) or "no result in time")
                }
            print(dumps({"path": Path(path).relative_to(root).as_posix(), **result}))
            bar.advance(task)
            if bar.disable and bar.tasks[0].completed % max(1, len(found) // 10) == 0:
                log.info("%d of %d files", bar.tasks[0].completed, len(found))

        await run(broker, describe, found, report, concurrency, attempts, result_ttl)
    if failed:
        print(f"{len(failed)} failed: {str(failed)[1:500]}", file=sys.stderr)
    return min(len(failed), 1)
