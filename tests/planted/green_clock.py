"""Correct code on a virtual clock, and in any order of the tasks."""

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

pytestmark = pytest.mark.virtual_clock
who: ContextVar[str] = ContextVar("who")


@pytest.mark.asyncio
async def test_a_long_sleep_takes_no_time() -> None:
    started = time.monotonic()
    loop = asyncio.get_running_loop()
    assert loop.time() == 0.0
    await asyncio.sleep(86_400)
    assert loop.time() == 86_400
    # After a year, a float has no room for nanoseconds.
    await asyncio.sleep(86_400 * 365)
    assert loop.time() == 86_400 * 366
    assert time.monotonic() - started < 2


@pytest.mark.asyncio
async def test_sleeps_end_in_their_order_and_timeouts_at_their_time() -> None:
    order: list[float] = []

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5):
            await asyncio.gather(nap(3), nap(1), nap(2), nap(0.1))
    assert order == [0.1, 1, 2]
    assert asyncio.get_running_loop().time() == 2.5


@pytest.mark.asyncio
async def test_a_thread_takes_real_time() -> None:
    # The timeout is in virtual time.
    async with asyncio.timeout(0.2):
        await asyncio.to_thread(time.sleep, 0.3)


@pytest.mark.skipif(
    sys.platform == "win32", reason="selector loops of Windows have no processes"
)
@pytest.mark.asyncio
async def test_a_process_takes_real_time() -> None:
    async with asyncio.timeout(0.2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(1)", stdout=-1
        )
        assert await process.communicate() == (b"1\n", None)
        process = await asyncio.create_subprocess_shell("exit 3")
        assert await process.wait() == 3


@pytest.mark.asyncio
async def test_sockets_work_between_tasks() -> None:
    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(5)
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async with (
        asyncio.timeout(6),
        await asyncio.start_server(handle, "127.0.0.1", 0) as server,
    ):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()
    assert asyncio.get_running_loop().time() == 5


@pytest.mark.shuffled(10)
@pytest.mark.asyncio
async def test_callbacks_of_sockets_keep_their_order() -> None:
    """No task uses a connection before the loop has opened it completely."""

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def ask(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_server(handle, "127.0.0.1", 0) as server,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(8):
            group.create_task(ask(server.sockets[0].getsockname()))


@pytest.mark.shuffled(4)
@pytest.mark.asyncio
async def test_contexts_queues_and_locks_work_in_any_order() -> None:
    queue: asyncio.Queue[str] = asyncio.Queue(2)
    got: list[str] = []
    lock = asyncio.Lock()

    async def put(name: str) -> None:
        who.set(name)
        async with lock:
            await asyncio.sleep(0)
            assert who.get() == name
            await queue.put(name)

    async def get() -> None:
        for _ in range(6):
            got.append(await queue.get())

    async with asyncio.TaskGroup() as group:
        group.create_task(get())
        for number in range(6):
            group.create_task(put(str(number)))
    assert sorted(got) == list("012345")


@pytest.mark.asyncio
async def test_code_that_cleans_up_passes_cancel_everywhere(
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    state: list[str] = []

    async def work() -> None:
        state.append("busy")
        try:
            await asyncio.sleep(1)
            async with asyncio.timeout(5):
                await asyncio.gather(asyncio.sleep(2), asyncio.sleep(0))
            await asyncio.sleep(0)
        finally:
            state.clear()
            await asyncio.sleep(0)

    def check() -> None:
        assert not state

    assert await cancel_everywhere(work, check) == 4


class Database:
    """A database like aiosqlite: one thread, which calls back into the loop."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[tuple[asyncio.Future[int], float] | None]
        self.jobs = queue.SimpleQueue()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            job = self.jobs.get()
            if job is None:
                return
            future, seconds = job
            time.sleep(seconds)
            self.loop.call_soon_threadsafe(future.set_result, 42)

    async def execute(self, seconds: float) -> int:
        future: asyncio.Future[int] = self.loop.create_future()
        self.jobs.put((future, seconds))
        return await future

    def close(self) -> None:
        self.jobs.put(None)
        self.thread.join()


@pytest.mark.asyncio
async def test_a_thread_that_calls_back_takes_real_time() -> None:
    database = Database()
    assert await database.execute(0.02) == 42
    async with asyncio.timeout(5):
        assert await database.execute(0.02) == 42
    assert await database.execute(0.4) == 42
    await asyncio.sleep(600)
    database.close()


def test_a_sync_test_can_use_the_virtual_clock() -> None:
    async def nap() -> float:
        await asyncio.sleep(600)
        return asyncio.get_running_loop().time()

    assert asyncio.run(nap()) == 600
