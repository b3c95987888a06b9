"""Small real pictures and sounds, and a stub for worker processes."""

import asyncio
import logging
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from PIL import Image

from media.plan import Job, Settings
from media.report import Result
from media.worker import Worker, WorkerError


@pytest.fixture(autouse=True)
def _log_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging does not look up threads.

    libvips logs from threads of its own. Python would list them as threads that are
    left running.
    """
    monkeypatch.setattr(logging, "logThreads", False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The folder with the files to convert, still empty."""
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """The folder for the outputs, which does not exist yet."""
    return tmp_path / "to"


@pytest.fixture
def current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder during the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def draw(source: Path) -> Callable[..., Path]:
    """Writes a picture of 80 x 60 pixels, red on the left and blue on the right.

    Further options are those of Pillow's `save`.
    """

    def draw(
        name: str,
        mode: str = "RGB",
        size: tuple[int, int] = (80, 60),
        **options: Any,
    ) -> Path:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, "blue")
        image.paste("red", (0, 0, size[0] // 2, size[1]))
        image.convert(mode).save(path, **options)
        return path

    return draw


@pytest.fixture
def play(source: Path) -> Callable[..., Path]:
    """Writes a tone of one second in stereo, at a quarter of full scale."""

    def play(
        name: str,
        peak: float = 0.25,
        seconds: float = 1.0,
        rate: int = 48_000,
        **options: str,
    ) -> Path:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        tone = peak * np.sin(2 * np.pi * 1_000 * time)
        soundfile.write(path, np.column_stack([tone, tone / 2]), rate, **options)
        return path

    return play


@pytest.fixture
def bomb(draw: Callable[..., Path]) -> Path:
    """A picture of a few bytes that claims to have a thousand million pixels."""
    path = draw("bomb.png", size=(1, 1))
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 40_000, 25_000) + content[24:29]
    checksum = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(content[:12] + header + checksum + content[33:])
    return path


Gate = Callable[["asyncio.Future[Any]"], AbstractAsyncContextManager[Path]]


@pytest.fixture
def gate(source: Path) -> Gate:
    """A picture that cannot be read before the block given to it has ended.

    The block begins when a worker process is reading the picture.
    """
    path = source / "gate.png"
    if sys.platform == "win32":
        pytest.skip("Windows has no named pipes")
    os.mkfifo(path)

    @asynccontextmanager
    async def gate(run: "asyncio.Future[Any]") -> AsyncIterator[Path]:
        # A named pipe opens when both of its ends do.
        opening: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(
            None, path.open, "wb"
        )
        try:
            await asyncio.wait([opening, run], return_when=asyncio.FIRST_COMPLETED)
            assert opening.done(), "no worker has opened the picture"
            yield path
        finally:
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            (await opening).close()
            os.close(reader)

    return gate


class StubWorker(Worker):
    """A worker without a process. It does what the items of a script say, in order.

    An item is "die", "hang" or "work"; when there is none left, it works. `log` records
    what was called.
    """

    def __init__(self, *script: str, log: list[str] | None = None) -> None:
        super().__init__(Path("unused"), Settings())
        self.script = list(script)
        self.log: list[str] = [] if log is None else log
        self.running = False

    @property
    def is_running(self) -> bool:
        return self.running

    async def start(self) -> None:
        self.log.append("start")
        self.running = True
        await asyncio.sleep(0)

    async def convert(self, job: Job) -> Result:
        self.log.append(job.source.name)
        await asyncio.sleep(0)
        action = self.script.pop(0) if self.script else "work"
        if action == "die":
            raise WorkerError("the worker process was ended by SIGKILL")
        if action == "hang":
            await asyncio.Event().wait()
        return Result(job.source, job.outputs)

    async def kill(self) -> None:
        if self.running:
            self.log.append("kill")
        self.running = False
        await asyncio.sleep(0)

    async def close(self) -> None:
        if self.running:
            self.log.append("close")
        self.running = False
        await asyncio.sleep(0)


@pytest.fixture
def stub_worker() -> type[StubWorker]:
    """The class `StubWorker`."""
    return StubWorker


@pytest.fixture
def working_args(
    draw: Callable[..., Path], play: Callable[..., Path], source: Path, to: Path
) -> list[str]:
    """Arguments with which the program succeeds."""
    draw("holiday/cat.jpg")
    play("talk/hello.wav")
    return [str(source), "--to", str(to), "--workers", "1"]


@pytest.fixture
def failing_args(source: Path, to: Path) -> list[str]:
    """Arguments with which it fails: a file that is no picture."""
    (source / "broken.png").write_bytes(b"no picture")
    return [str(source), "--to", str(to)]


@pytest.fixture
def busy_args(draw: Callable[..., Path], source: Path, to: Path) -> list[str]:
    """Arguments with which it works for a long time: a thousand pictures."""
    picture = draw("cat.png", size=(2_000, 1_500))
    for number in range(1_000):
        os.link(picture, source / f"cat{number}.png")
    return [str(source), "--to", str(to), "--workers", "1"]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Returns when the program has printed the first picture."""

    async def until_busy(stdout: IO[str], _stderr: IO[str]) -> None:
        assert "cat" in await asyncio.to_thread(stdout.readline)

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: the next run does what is left."""
    return False
