"""Small real pictures and sounds, made on the spot, and stand-ins for a worker
process.
"""

import asyncio
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import pytest_asyncio
import soundfile  # type: ignore[import-untyped]
from PIL import Image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The folder with the files to convert, still empty."""
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """The folder for the outputs, not there yet."""
    return tmp_path / "to"


@pytest.fixture
def draw(source: Path) -> Callable[..., Path]:
    """Write a picture, 80 x 60, its left half red and the rest blue; options are
    Pillow's.
    """

    def draw(
        name: str, mode: str = "RGB", size: tuple[int, int] = (80, 60), **how: Any
    ) -> Path:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, "blue")
        image.paste("red", (0, 0, size[0] // 2, size[1]))
        image.convert(mode).save(path, **how)
        return path

    return draw


@pytest.fixture
def play(source: Path) -> Callable[..., Path]:
    """Write a tone: stereo, 48 kHz, a tenth of a second, a quarter of full scale."""

    def play(name: str, peak: float = 0.25, frames: int = 4_800, **kind: str) -> Path:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = peak * np.sin(np.arange(frames) / 10)
        soundfile.write(path, np.column_stack([tone, tone / 2]), 48_000, **kind)
        return path

    return play


@pytest.fixture
def bomb(draw: Callable[..., Path]) -> Path:
    """A picture of a few bytes that claims to have a hundred million pixels."""
    path = draw("bomb.png", size=(1, 1))
    header = path.read_bytes()
    claim = b"IHDR" + struct.pack(">II", 10_000, 10_000) + header[24:29]
    path.write_bytes(
        header[:12] + claim + struct.pack(">I", zlib.crc32(claim)) + header[33:]
    )
    return path


Gate = Callable[["asyncio.Future[Any]"], AbstractAsyncContextManager[Path]]


@pytest.fixture
def gate(source: Path) -> Gate:
    """A picture in the folder that cannot be read before the block given to it has
    ended.

    The block begins when a worker is in the middle of the picture.
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
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            (await opening).close()

    return gate


class Stub(Executor):
    """A worker process that does in turn what a test asks, then its work, all in no
    time.

    An item is an error, or "hang".
    """

    def __init__(self, *script: Exception | str) -> None:
        self.script = list(script)
        self.started = self.ended = self.asked = self.most = 0

    def submit(self, *_: object, **__: object) -> "Future[Any]":
        self.asked += 1
        answer: Future[Any] = Future()
        item = self.script.pop(0) if self.script else None
        if isinstance(item, Exception):
            answer.set_exception(item)
        elif item != "hang":
            answer.set_result((True, "done"))
        return answer

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Executor]:
        """Play the start and the end of a process."""
        await asyncio.sleep(0)
        self.started += 1
        self.most = max(self.most, self.started - self.ended)
        try:
            yield self
        finally:
            self.ended += 1


@pytest.fixture
def process() -> type[Stub]:
    """The class `Stub`, to be given a script."""
    return Stub


@pytest_asyncio.fixture
async def in_a_thread() -> AsyncIterator[
    Callable[[], AbstractAsyncContextManager[Executor]]
]:
    """A worker that is a thread: real work without the wait for a process."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda: nullcontext(pool)


@pytest.fixture
def working_args(
    draw: Callable[..., Path], play: Callable[..., Path], to: Path
) -> list[str]:
    """Arguments with which the program succeeds."""
    draw("holiday/cat.jpg")
    play("talk/hello.wav")
    return [str(to.parent / "source"), "--to", str(to), "--workers", "1"]


@pytest.fixture
def failing_args(source: Path, to: Path) -> list[str]:
    """Arguments with which it fails: a file that is no picture."""
    (source / "broken.png").write_bytes(b"no picture")
    return [str(source), "--to", str(to)]


@pytest.fixture
def busy_args(draw: Callable[..., Path], source: Path, to: Path) -> list[str]:
    """Arguments with which it has hours of work: one picture under a thousand names."""
    picture = draw("cat.png", size=(2_000, 1_500))
    for number in range(1_000):
        os.link(picture, source / f"cat{number}.png")
    return [str(source), "--to", str(to), "--workers", "1"]


@pytest.fixture
def until_busy() -> Callable[[IO[str], IO[str]], Awaitable[object]]:
    """Return when the program tells of the first picture."""

    async def until_busy(stdout: IO[str], _stderr: IO[str]) -> None:
        assert "cat" in await asyncio.to_thread(stdout.readline)

    return until_busy


@pytest.fixture
def drains() -> bool:
    """A signal ends the program at once: a second run does what is left."""
    return False
