"""What worker processes bring: two of them against one process, and how the event loop
fares meanwhile.

    uv run --group bench python benchmarks/media.py [--files N] [--rounds N] [--json
    FILE]

The same pictures (JPEG, 12 megapixels) and sounds (FLAC, a minute) are converted in
turns by this process alone and by two workers, the start of the workers included;
medians after a warm-up. A ticker of 5 ms measures the loop's lag.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import harness
import numpy as np
import soundfile
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates" / "media"))

from app import Job, convert, plan, work, worker

TICK = 0.005


def make_files(source: Path, files: int) -> None:
    """Write one picture and one sound, each under as many names as `files`."""
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(0, 255, (300, 400, 3), dtype=np.uint8))
    noise.resize((4000, 3000)).save(source / "picture0.jpg", quality=90)
    soundfile.write(
        source / "sound0.flac", random.normal(0, 0.05, (60 * 48_000, 2)), 48_000
    )
    for number in range(1, files):
        for name, suffix in (("picture", "jpg"), ("sound", "flac")):
            (source / f"{name}{number}.{suffix}").hardlink_to(
                source / f"{name}0.{suffix}"
            )


def in_one_process(jobs: list[Job]) -> None:
    assert all(convert(job)[0] for job in jobs)


async def in_two_workers(jobs: list[Job], scratch: Path) -> list[float]:
    """Convert, and return by how many seconds each tick of the loop came late."""
    lags: list[float] = []
    failed: list[Path] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            lags.append(time.perf_counter() - due)

    def report(path: Path, ok: bool, _text: str) -> None:
        failed.extend([] if ok else [path])

    ticker = asyncio.create_task(tick())
    turns = iter(jobs)
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(work(turns, report, partial(worker, scratch), 300))
    ticker.cancel()
    assert not failed
    return lags


def main() -> None:
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument(
        "--files", type=int, default=24, help="pictures, and as many sounds"
    )
    options = parser.parse_args()
    one, two, lags = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        source, scratch = Path(folder, "source"), Path(folder, "scratch")
        source.mkdir()
        scratch.mkdir()
        make_files(source, options.files)
        jobs, _ = plan(source, Path(folder, "to"), 512)
        in_one_process(jobs[::10])  # the warm-up
        for _ in range(options.rounds):
            started = time.perf_counter()
            in_one_process(jobs)
            one.append(time.perf_counter() - started)
            started = time.perf_counter()
            lags += asyncio.run(in_two_workers(jobs, scratch))
            two.append(time.perf_counter() - started)
    ratio = statistics.median(one) / statistics.median(two)
    p50, p99 = (statistics.quantiles(lags, n=100)[q - 1] * 1000 for q in (50, 99))
    print(f"{len(jobs)} files, medians of {options.rounds} rounds")
    print(f"{'one process':>18}  {statistics.median(one):6.2f} s")
    print(f"{'two workers':>18}  {statistics.median(two):6.2f} s")
    print(f"{'ratio':>18}  {ratio:6.2f}")
    print(
        f"{'lag of the loop':>18}  p50 {p50:.1f}, p99 {p99:.1f}, most {max(lags) * 1000:.1f} ms"  # noqa: E501
    )
    harness.keep(
        {
            "seconds": {"one": one, "two": two},
            "ratio": ratio,
            "lag_ms": {"p50": p50, "p99": p99},
        },
        options.json,
    )


if __name__ == "__main__":
    main()
