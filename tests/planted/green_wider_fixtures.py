"""Tasks and threads of a fixture of a wider scope do not belong to its first test."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
import pytest_asyncio


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


class Client:
    """Starts what it needs when it is used for the first time."""

    def __init__(self) -> None:
        self.questions: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
        self.reader: asyncio.Task[None] | None = None
        self.numbers = numbers()

    async def read(self) -> None:
        while True:
            question = await self.questions.get()
            question.set_result("answer")

    async def ask(self) -> str:
        if self.reader is None:
            self.reader = asyncio.create_task(self.read())
        question: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.questions.put_nowait(question)
        async with asyncio.timeout(1):
            return await question


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    client = Client()
    yield client
    assert client.reader is not None
    client.reader.cancel()
    await client.numbers.aclose()  # type: ignore[attr-defined]


@pytest.mark.leaves_tasks
@pytest.mark.leaves_generators
@pytest.mark.asyncio(loop_scope="module")
async def test_a_task_started_by_a_test_stays_with_the_opt_out(client: Client) -> None:
    assert await client.ask() == "answer"
    assert await anext(client.numbers) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_the_task_works_in_the_next_test(client: Client) -> None:
    assert await client.ask() == "answer"
    assert await anext(client.numbers) == 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started() -> AsyncIterator[Client]:
    client = Client()
    await client.ask()
    assert await anext(client.numbers) == 1
    yield client
    assert client.reader is not None
    client.reader.cancel()
    await client.numbers.aclose()  # type: ignore[attr-defined]


@pytest.fixture
def started_later(request: pytest.FixtureRequest) -> Client:
    client: Client = request.getfixturevalue("started")
    return client


@pytest.mark.asyncio(loop_scope="module")
async def test_a_task_started_by_a_fixture_may_stay(started_later: Client) -> None:
    assert await started_later.ask() == "answer"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_task_of_the_fixture_works_in_the_next_test(
    started: Client,
) -> None:
    assert await started.ask() == "answer"
    assert await anext(started.numbers) == 2


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool


@pytest.mark.asyncio
async def test_a_shared_pool_starts_its_threads_when_they_are_needed(
    pool: ThreadPoolExecutor,
) -> None:
    assert await asyncio.get_running_loop().run_in_executor(pool, len, "four") == 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.asyncio
async def test_a_shared_pool_starts_its_processes_when_they_are_needed(
    processes: ProcessPoolExecutor,
) -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(processes, len, "four") == 4


@pytest.fixture(scope="module")
def ticker() -> Iterator[dict[str, Any]]:
    """A thread that starts a task in the loop of the test."""
    given = threading.Event()
    stopped = threading.Event()
    state: dict[str, Any] = {"loop": None, "tasks": [], "given": given}

    def run() -> None:
        given.wait()
        work = asyncio.sleep(600)
        future = asyncio.run_coroutine_threadsafe(work, state["loop"])
        state["tasks"].append(future)
        stopped.wait()

    def stop(*_: object) -> None: ...

    previous = signal.signal(signal.SIGTERM, stop)
    thread = threading.Thread(target=run)
    thread.start()
    yield state
    stopped.set()
    thread.join()
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.asyncio
async def test_a_thread_of_a_shared_fixture(ticker: dict[str, Any]) -> None:
    ticker["loop"] = asyncio.get_running_loop()
    ticker["given"].set()
    while not ticker["tasks"]:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
