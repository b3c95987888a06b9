"""Turn a folder of pictures and sounds into thumbnails, edge maps and levelled sounds.

Worker processes do it: the event loop stays free. To add a kind of file, see
`KINDS`."""

import asyncio
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
)
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from shutil import rmtree

import numpy as np
import soundfile  # type: ignore[import-untyped]
from cyclopts.types import PositiveFloat, PositiveInt
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import Progress


def picture(source: Path, drafts: list[Path], size: int) -> str:
    """Write a thumbnail, at most `size` pixels wide and high, without metadata, and its
    edges.
    """
    with Image.open(source) as image:
        image.draft(
            None, (2 * size, 2 * size)
        )  # a JPEG is decoded no larger than is needed
        ImageOps.exif_transpose(image, in_place=True)
        small = (
            image.point(lambda g: g / 256) if image.mode == "I;16" else image
        )  # else all white
        small = small.convert("RGBA" if image.has_transparency_data else "RGB")
        profile = (
            image.info.get("icc_profile")
            if image.mode.startswith(("P", "RGB"))
            else None
        )
    small.thumbnail((size, size))
    small.save(drafts[0], icc_profile=profile)
    grey = np.pad(np.asarray(small.convert("L"), np.int16), 1, mode="edge")
    across, down = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    Image.fromarray(np.hypot(across, down).clip(max=255).astype(np.uint8)).save(
        drafts[1]
    )
    return f"{small.width} x {small.height} pixels"


def sound(source: Path, drafts: list[Path], size: int) -> str:
    """Write the sound, block by block, with its loudest sample 1 dB below full
    scale.
    """
    with soundfile.SoundFile(source) as heard:
        peak = np.max(
            [np.abs(block).max() for block in heard.blocks(65_536)], initial=0
        )
        gain = 10 ** (-1 / 20) / (peak or 1)
        heard.seek(0)
        like = (
            heard.samplerate,
            heard.channels,
            heard.subtype,
            heard.endian,
            heard.format,
        )
        with (
            soundfile.SoundFile(drafts[0], "w", *like) as levelled,
            np.errstate(invalid="ignore"),
        ):
            for block in heard.blocks(65_536):
                levelled.write(block * gain)
        last, _ = soundfile.read(
            drafts[0], start=heard.frames - 1
        )  # else a full disk goes unseen
        if not (gain > 0 and len(last)):
            raise ValueError(f"not a whole sound: {heard.frames} frames, peak {peak:g}")
    return f"{20 * np.log10(gain):+.1f} dB"


PICTURE, SOUND = (picture, [".{size}.webp", ".{size}.edges.png"]), (sound, [""])
# Suffix: the function, and what each of its outputs adds to the name of the file.
KINDS = {
    ".gif": PICTURE,
    ".jpeg": PICTURE,
    ".jpg": PICTURE,
    ".png": PICTURE,
    ".webp": PICTURE,
}
KINDS |= {".flac": SOUND, ".ogg": SOUND, ".wav": SOUND}
Job = tuple[Path, list[Path], int]  # a file, its outputs, and the size of a thumbnail
Report = Callable[
    [Path, bool, str], object
]  # gets a file, if it was converted, to what or why not
Start = Callable[
    [], AbstractAsyncContextManager[Executor]
]  # starts a process, ends it afterwards


def plan(source: Path, to: Path, size: int) -> tuple[list[Job], list[OSError]]:
    """Return what is left to do for the folder `source`, and the errors of folders in
    it.
    """
    if source.resolve().is_relative_to(to.resolve()):
        raise ValueError(
            f"the source must not be in the folder for the outputs: {source}"
        )
    jobs, errors = list[Job](), list[OSError]()
    for folder, folders, names in os.walk(source, onerror=errors.append):
        here, there = Path(folder), to / Path(folder).relative_to(source)
        folders[:] = (
            n for n in folders if n[0] != "." and (here / n).resolve() != to.resolve()
        )
        for path in (here / name for name in names if name[0] != "."):
            _, endings = KINDS.get(path.suffix.lower(), (None, []))
            outputs = [
                there / (path.name + ending.format(size=size)) for ending in endings
            ]
            times = sorted(p.stat().st_mtime_ns for p in (path, *outputs) if p.exists())
            slack = (
                10**7 if all(time % 10**9 for time in times) else 2 * 10**9
            )  # FAT stores 2 s
            if outputs and (
                len(times) <= len(outputs) or times[-1] - times[0] >= slack
            ):
                jobs.append((path, outputs, size))
    return sorted(jobs), errors


def convert(job: Job) -> tuple[bool, str]:
    """Make all outputs of a file, each whole or not at all; return if it worked, and
    the news.
    """
    source, outputs, size = job
    try:
        time, (make, _) = source.stat().st_mtime_ns, KINDS[source.suffix.lower()]
        with tempfile.TemporaryDirectory() as folder:
            drafts = [Path(folder, output.name) for output in outputs]
            text = make(source, drafts, size)
            for draft, output in zip(drafts, outputs, strict=True):
                os.utime(
                    draft, ns=(time, time)
                )  # by which `plan` sees what it was made of
                output.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(output)
        return True, text
    except Exception as error:  # decoders raise nearly anything when a file is broken
        return False, f"{type(error).__name__}: {error}"


def set_up(folder: str) -> None:
    """Make this process a worker with `folder` for its drafts, which ends if its
    program dies.
    """

    def end() -> None:
        if program := parent_process():
            program.join()
        rmtree(folder, ignore_errors=True)
        os._exit(1)

    tempfile.tempdir = folder
    threading.Thread(target=end, daemon=True).start()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches us too: the parent sees to it
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def begin(scratch: Path) -> tuple[Executor, ExitStack]:
    """Return a pool of one process (if it dies, we know of which file), once up, and
    its end.
    """
    with ExitStack() as stack:
        stack.callback(
            rmtree, folder := tempfile.mkdtemp(dir=scratch), ignore_errors=True
        )
        pool = stack.enter_context(
            ProcessPoolExecutor(1, get_context("spawn"), set_up, (folder,))
        )
        if (
            sys.platform != "win32"
        ):  # Ctrl-C reaches the process too, but it inherits this mask
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        up = pool.submit(os.getpid)
        for child in active_children():
            if (
                not up.exception() and child.pid == up.result()
            ):  # else it died while it started
                stack.callback(
                    child.kill
                )  # what it runs may never let it end by itself
        return pool, stack.pop_all()


@asynccontextmanager
async def worker(scratch: Path) -> AsyncIterator[Executor]:
    """Start a process that converts one file at a time; after the block it has
    ended.
    """
    begun = asyncio.get_running_loop().run_in_executor(None, begin, scratch)
    try:
        yield (await asyncio.shield(begun))[0]
    finally:
        await asyncio.shield(
            begun.get_loop().run_in_executor(None, (await begun)[1].close)
        )


async def work(jobs: Iterator[Job], report: Report, start: Start, limit: float) -> None:
    """Convert and report file by file; one whose process dies or takes `limit` s gets
    another.
    """
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(start())
        for job in jobs:
            for _ in range(2):
                try:
                    async with asyncio.timeout(limit):
                        ok, text = await asyncio.wrap_future(pool.submit(convert, job))
                    break
                except (BrokenExecutor, TimeoutError) as error:
                    ok, text = False, str(error) or f"not done in {limit:g} s"
                    await stack.aclose()
                    pool = await stack.enter_async_context(start())
            report(job[0], ok, text)


async def main(
    source: Path,
    *,
    to: Path,
    size: PositiveInt = 512,
    workers: PositiveInt | None = None,
    limit: PositiveFloat = 300.0,
) -> int:
    """Make thumbnails, edge maps and levelled sounds of the files in a folder, if not
    there yet.

    Args:
        source: Folder with pictures (JPEG, PNG, WebP, GIF) and sounds (WAV, FLAC, OGG).
        to: Folder for what is made of them, with the same folders inside.
        size: Most pixels of a thumbnail's width and height.
        workers: Processes, each with one file at a time; as many as cores if not given.
        limit: Seconds that one try at a file may last.
    """
    scratch, failed = to / f".unfinished-{os.urandom(8).hex()}", list[Path]()

    def report(path: Path, ok: bool, text: str) -> None:
        line = "".join(
            c if c.isprintable() else "?" for c in f"{path}: {text}"
        )  # no escape codes
        print(line, file=sys.stdout if ok else sys.stderr)
        failed.extend([] if ok else [path])
        bar.advance(task)

    try:
        jobs, errors = await asyncio.to_thread(plan, source, to, size)
        await asyncio.to_thread(scratch.mkdir, parents=True)
        tty, quiet = sys.stdout.isatty(), not sys.stderr.isatty()
        with Progress(
            console=Console(stderr=True), disable=quiet, redirect_stdout=tty
        ) as bar:
            task, turns = (
                bar.add_task("files", total=len(jobs) + len(errors)),
                iter(jobs),
            )
            for error in errors:
                report(Path(error.filename), False, str(error.strerror))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(workers or os.cpu_count() or 1, len(jobs))):
                    group.create_task(
                        work(turns, report, lambda: worker(scratch), limit)
                    )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        await asyncio.to_thread(rmtree, scratch, ignore_errors=True)
    return 1 if failed else 0
