"""Small data, finished trainings, and workers that start fast."""

import asyncio
import queue
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from training.checkpoint import Checkpoint, Epoch, save
from training.data import load_data
from training.model import start_training, train_epochs
from training.trainer import (
    Settings,
    Worker,
    send_checkpoints,
)


class ThreadWorker(Worker):
    """Trains in a thread of the tests' own process. A process takes seconds to start.

    Like a worker process, it waits until a message has been received before it sends
    the next one.
    """

    def __init__(self, settings: Settings, start: Checkpoint | None) -> None:
        self.messages = queue.Queue[Checkpoint | Exception](maxsize=1)
        self.killed = threading.Event()
        self.thread = threading.Thread(
            target=send_checkpoints, args=(self, settings, start)
        )

    def send(self, message: Checkpoint | Exception) -> None:
        """Send a message, as the worker's end of the pipe does."""
        while not self.killed.is_set():
            try:
                self.messages.put(message, timeout=0.05)
                return
            except queue.Full:
                pass
        raise BrokenPipeError

    def start(self) -> None:
        self.thread.start()

    def receive(self) -> Checkpoint:
        while not self.killed.is_set():
            try:
                message = self.messages.get(timeout=0.05)
            except queue.Empty:
                continue
            if isinstance(message, Exception):
                raise message
            return message
        raise ChildProcessError("the worker died: exit code -9")

    def kill(self) -> None:
        self.killed.set()

    def close(self) -> None:
        if self.thread.ident is not None:
            self.thread.join()


class FakeWorker(Worker):
    """Does what the test says.

    The test puts what `receive` returns into `messages`, and None for its death.
    `calls` are the methods that were called. `receiving` is set while `receive` waits.
    """

    def __init__(
        self, settings: Settings | None = None, start: Checkpoint | None = None
    ) -> None:
        self.messages = queue.Queue[Checkpoint | None]()
        self.calls: list[str] = []
        self.receiving = threading.Event()

    def start(self) -> None:
        self.calls.append("start")

    def receive(self) -> Checkpoint:
        self.receiving.set()
        message = self.messages.get()
        self.receiving.clear()
        if message is None:
            raise ChildProcessError("the worker died: exit code -9")
        return message

    def kill(self) -> None:
        self.calls.append("kill")
        self.messages.put(None)

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def thread_worker() -> type[ThreadWorker]:
    """A worker that trains, and starts fast."""
    return ThreadWorker


@pytest.fixture
def fake_worker() -> type[FakeWorker]:
    """A worker that does what the test says."""
    return FakeWorker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the test's checkpoint. It does not exist yet."""
    return tmp_path / "model.npz"


@pytest.fixture(scope="session")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file with 90 flowers of three kinds, which differ in size."""
    numbers = random.Random(1)  # noqa: S311 - not for cryptography
    lines = ["length,width,kind"]
    for size, kind in enumerate(["daisy", "rose", "tulip"], start=1):
        for _ in range(30):
            length = size + numbers.uniform(-0.3, 0.3)
            width = 5 - size + numbers.uniform(-0.3, 0.3)
            lines.append(f"{length:.3f},{width:.3f},{kind}")
    file = tmp_path_factory.mktemp("data") / "flowers.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def settings(flowers: Path) -> Settings:
    """The settings of a training that takes milliseconds."""
    return Settings(epochs=5, batch_size=8, data=flowers, label="kind")


@pytest.fixture(scope="session")
def finished(settings: Settings) -> Checkpoint:
    """The last checkpoint of that training, run from start to end without a stop."""
    data = load_data(settings.data, settings.label)
    start = start_training(data, settings.seed, settings.batch_size)
    *_, last = train_epochs(start, data, settings.epochs, settings.patience)
    return last


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Returns a small checkpoint after some epochs, with invented results."""

    def make(losses: list[float], seed: int = 0) -> Checkpoint:
        weights = [np.eye(2), np.eye(2), np.ones(2), np.ones(2)]
        return Checkpoint(
            seed=seed,
            batch_size=32,
            classes=["no", "yes"],
            features=["x", "y"],
            data_digest="0" * 64,
            split=np.zeros(9, np.uint8),
            mean=np.zeros(2),
            deviation=np.ones(2),
            history=[Epoch(loss / 2, loss, 0.75) for loss in losses],
            weights=weights,
            best_weights=weights,
            test_accuracy=0.5,
        )

    return make


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session, closed after the test."""
    async with aiohttp.ClientSession() as session:
        yield session


# --- What tests/test_main.py needs


@pytest.fixture
def working_args(path: Path, flowers: Path, finished: Checkpoint) -> list[str]:
    """Arguments with which the program succeeds at once: it predicts."""
    save(path, finished)
    return ["--checkpoint", str(path), "--predict", str(flowers)]


@pytest.fixture
def failing_args(path: Path) -> list[str]:
    """Arguments with which it fails: the file is not a checkpoint."""
    path.write_text("Dear diary,", encoding="utf-8")
    return ["--checkpoint", str(path)]


@pytest.fixture
def busy_args(path: Path) -> list[str]:
    """Arguments with which it trains for hours."""
    return ["--epochs", "100000", "--checkpoint", str(path)]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Waits until the program serves its status, and starts its worker."""

    async def until_busy(_stdout: IO[str], stderr: IO[str]) -> None:
        line = await asyncio.to_thread(stderr.readline)
        assert "status: http://127.0.0.1:" in line

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A training that was stopped is not finished: its exit status names the signal."""
    return False
