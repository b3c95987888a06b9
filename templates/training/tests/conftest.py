"""Real workers that start fast, a finished training, and arguments for the program."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.forkserver import ensure_running, set_forkserver_preload
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import Popen
from typing import IO

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from training.app import Checkpoint, main, train

DEFAULTS = f"""
import asyncio, pathlib, sys
from {main.__module__} import main
sys.exit(asyncio.run(main(epochs=5, checkpoint=pathlib.Path(sys.argv[1]))))
"""


@pytest.fixture(scope="session", autouse=True)
def defaults(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Popen[bytes], Path]]:
    """Five epochs with all defaults, a spawned worker too, while other tests run; and
    its words.
    """
    folder = tmp_path_factory.mktemp("defaults")
    command = [sys.executable, "-c", DEFAULTS, str(folder / "digits.npz")]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "told").open("wb") as told:
        process = Popen(command, env=paths, stdout=told, stderr=told)
    with process:
        yield process, folder / "told"
        process.kill()


@pytest.fixture(scope="session", autouse=True)
def forkserver() -> None:
    """A process that imports scikit-learn, once, while tests run that can do
    without.
    """
    if sys.platform != "win32":
        os.environ.setdefault(
            "OMP_NUM_THREADS", "1"
        )  # a process with threads is not to be forked
        modules = [
            "aiohttp.web",
            "cyclopts.types",
            "sklearn.datasets",
            "sklearn.neural_network",
        ]
        set_forkserver_preload(["pytest", *modules])
        ensure_running()


@pytest.fixture(scope="session")
def fork() -> type[BaseProcess]:
    """Processes that start in no time, as forks of the forkserver; spawned ones take
    seconds.
    """
    if sys.platform == "win32":
        return get_context("spawn").Process
    fork = get_context("forkserver").Process
    first = fork(target=int)
    first.start()
    first.join()
    return fork


@pytest.fixture(scope="session")
def finished(fork: type[BaseProcess], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of five epochs of few steps, trained from start to end without a
    break.
    """
    path = tmp_path_factory.mktemp("finished") / "digits.npz"

    async def finish() -> None:
        async for _ in train(Checkpoint(batch=500), 5, path, fork):
            pass

    asyncio.run(finish())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's training keeps its checkpoint."""
    return tmp_path / "digits.npz"


@pytest.fixture
def fast_main(
    fork: type[BaseProcess], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Coroutine[None, None, int]]:
    """`main`, with workers that start fast."""
    monkeypatch.setitem(main.__globals__, "train", partial(train, by=fork))
    return main


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session, closed after the test."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def working_args(path: Path) -> list[str]:
    """Arguments with which the program succeeds at once: all has been trained
    before.
    """
    Checkpoint(history=[(0.25, 0.75)], weights=[np.ones(1)]).save(path)
    return ["--epochs", "1", "--checkpoint", str(path)]


@pytest.fixture
def failing_args(path: Path) -> list[str]:
    """Arguments with which it fails: that is no checkpoint."""
    path.write_text("Dear diary,")
    return ["--checkpoint", str(path)]


@pytest.fixture
def busy_args(path: Path) -> list[str]:
    """Arguments with which it trains for hours."""
    return ["--epochs", "100000", "--checkpoint", str(path)]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Return when it answers requests, and its worker is on its way up."""

    async def until_busy(stdout: IO[str], _stderr: IO[str]) -> None:
        line = await asyncio.to_thread(stdout.readline)
        assert line.startswith("status: http://127.0.0.1:")

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A stopped training is not a finished one: its exit status tells of the signal."""
    return False
