"""Measure the time to make thumbnails, against mogrify, vipsthumbnail and one process.

    uv run --group bench python benchmarks/media.py

Each contestant makes WebP thumbnails of 512 pixels from the same JPEGs of 3000 x 2000
pixels. The starter and the commands use two processes; the start of the processes is
included. Also measures the lag of the event loop while the starter works. A command
that is not installed is skipped.
"""

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import harness
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from media.app import convert_all
from media.plan import Settings, make_plan
from media.report import Result
from media.worker import Worker

TICK = 0.005  # seconds
SIZE = 512
PROCESSES = 2


def make_pictures(source: Path, files: int) -> None:
    """Write one picture, and make hard links to it as the other files."""
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(0, 255, (200, 300, 3), dtype=np.uint8))
    first = source / "picture0.jpg"
    noise.resize((3000, 2000)).save(first, quality=90)
    for number in range(1, files):
        (source / f"picture{number}.jpg").hardlink_to(first)


class Starter:
    """The media starter. Each run writes to a new folder."""

    def __init__(self, source: Path, to: Path) -> None:
        self.source = source
        self.to = to
        self.numbers = count()
        self.lags: list[float] = []

    def run(self, *, vision: bool, workers: int = PROCESSES) -> float:
        """Convert all files; return the seconds."""
        started = time.perf_counter()
        asyncio.run(self.convert(vision, workers))
        return time.perf_counter() - started

    async def convert(self, vision: bool, workers: int) -> None:
        """Convert all files, and measure the lag of the event loop meanwhile."""
        to = self.to / str(next(self.numbers))
        settings = Settings(size=SIZE, vision=vision)
        plan = make_plan(self.source, to, settings)
        scratch = to / ".unfinished"
        scratch.mkdir(parents=True)
        results: list[Result] = []

        def new_worker() -> Worker:
            return Worker(scratch, settings, ["pictures"])

        ticker = asyncio.create_task(self.tick())
        await convert_all(plan.jobs, new_worker, results.append, workers=workers)
        ticker.cancel()
        assert len(results) == len(plan.jobs)
        assert not any(result.error for result in results)

    async def tick(self) -> None:
        """Record by how many seconds each sleep takes too long."""
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.lags.append(time.perf_counter() - due)


def run_command(command: list[str], source: Path) -> float:
    """Run a command for all files, two processes at a time; return the seconds."""
    paths = sorted(map(str, source.iterdir()))
    started = time.perf_counter()
    processes = []
    for start in range(PROCESSES):
        share = paths[start::PROCESSES]
        processes.append(subprocess.Popen([*command, *share]))
    for process in processes:
        assert process.wait() == 0
    return time.perf_counter() - started


def with_pillow(source: Path, to: Path) -> float:
    """Make the thumbnails with Pillow in this process; return the seconds."""
    started = time.perf_counter()
    for path in source.iterdir():
        with Image.open(path) as image:
            image.draft(None, (2 * SIZE, 2 * SIZE))
            small = image.convert("RGB")
        small.thumbnail((SIZE, SIZE))
        small.save(to / f"{path.name}.webp")
    return time.perf_counter() - started


def with_libvips(source: Path, to: Path) -> float:
    """Make the thumbnails with pyvips in this process; return the seconds."""
    from media.pictures import convert

    started = time.perf_counter()
    for path in source.iterdir():
        convert(path, [to / f"{path.name}.webp"], Settings(size=SIZE, vision=False))
    return time.perf_counter() - started


def contestants(starter: Starter, to: Path) -> dict[str, Callable[[], float]]:
    """Return the ways to make the thumbnails, by name."""
    source = starter.source
    ways: dict[str, Callable[[], float]] = {
        "everything": lambda: starter.run(vision=True),
        "everything, one worker": lambda: starter.run(vision=True, workers=1),
        "thumbnails": lambda: starter.run(vision=False),
        "Pillow, one process": lambda: with_pillow(source, to),
        "pyvips, one process": lambda: with_libvips(source, to),
    }
    commands = {
        "mogrify": [
            *("mogrify", "-path", str(to), "-format", "webp"),
            *("-auto-orient", "-thumbnail", f"{SIZE}x{SIZE}"),
        ],
        "vipsthumbnail": [
            *("vipsthumbnail", "--size", str(SIZE)),
            *("--output", str(to / "%s.webp[strip]")),
        ],
    }
    for name, command in commands.items():
        if shutil.which(name) is None:
            harness.skip(name, "it is not installed")
        else:
            ways[name] = partial(run_command, command, source)
    return ways


def main() -> None:
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument(
        "--files",
        type=int,
        default=24,
        metavar="N",
        help="Number of pictures; 24 by default.",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        to = Path(folder, "to")
        source.mkdir()
        to.mkdir()
        make_pictures(source, options.files)
        starter = Starter(source, to)
        seconds = harness.in_turns(options.rounds, contestants(starter, to))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratios = {}
    for ours, other in (
        ("thumbnails", "vipsthumbnail"),
        ("everything", "mogrify"),
        ("pyvips, one process", "Pillow, one process"),
    ):
        if other in medians:
            ratios[f"{ours} / {other}"] = medians[ours] / medians[other]
    quantiles = statistics.quantiles(starter.lags, n=100)
    lag = {"p50": quantiles[49] * 1000, "p99": quantiles[98] * 1000}

    print(f"{options.files} pictures, medians of {options.rounds} rounds")
    for name, median in medians.items():
        print(f"{name:>40}  {median:6.2f} s")
    for name, ratio in ratios.items():
        print(f"{name:>40}  {ratio:6.2f}x")
    longest = max(starter.lags) * 1000
    print(
        f"{'lag of the loop':>40}  "
        f"p50 {lag['p50']:.1f}, p99 {lag['p99']:.1f}, longest {longest:.1f} ms"
    )
    two_workers = medians["everything, one worker"] / medians["everything"]
    results = {
        "seconds": seconds,
        "ratio": two_workers,
        "ratios": ratios,
        "lag_ms": lag,
    }
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
