"""How cost grows: a render with the number of starters, and each starter with 1, 10 and
100 times its work.

    uv run --group bench python benchmarks/growth.py [--rounds 5] [--json FILE]

A starter's work is its own `main`, in a process of its own, timed from its first to its
last line, without imports; its memory is the process's peak. The chat room is a server:
there the work is messages that 50 clients hear.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
from render import TEMPLATE, seconds

STARTERS: list[str] = json.loads(
    (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
)["starter"]
TIMES = (1, 10, 100)
CHILD = """
import asyncio, json, logging, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from {starter}.app import main
async def work(n, url): return await main({arguments})
if __name__ == "__main__":
    logging.disable()
    started = time.perf_counter()
    status = asyncio.run(work(int(sys.argv[2]), sys.argv[3]))
    took = time.perf_counter() - started
    assert status == 0, status
    Path("took.json").write_text(json.dumps([took,
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def csv(folder: Path, n: int) -> None:
    """Write the rows that the etl starter loads."""
    rows = (
        f"{key},shop {key % 7},2026-01-{key % 28 + 1:02},{key % 99}50\n"
        for key in range(1, 1000 * n + 1)
    )
    (folder / "sales.csv").write_text(
        "id,item,day,cents\n" + "".join(rows), encoding="utf-8"
    )


def pictures(folder: Path, n: int) -> None:
    """Draw the pictures that the media starter makes small."""
    import numpy as np
    from PIL import Image

    (folder / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(folder / "pictures" / "0.jpg")
    for number in range(1, 4 * n):
        shutil.copy(
            folder / "pictures" / "0.jpg", folder / "pictures" / f"{number}.jpg"
        )


def files(folder: Path, n: int) -> None:
    """Write the files that the jobs starter describes."""
    (folder / "tree").mkdir()
    for number in range(50 * n):
        (folder / "tree" / f"{number}.txt").write_text(
            f"{number}\n" * 100, encoding="utf-8"
        )


# starter: what 1x is, the arguments of main() for n times as much, what is prepared for
# it
WORKS: dict[str, tuple[str, str, Callable[[Path, int], None] | None]] = {
    "api_client": ("20 facts", "20 * n, base_url=url, deadline=600.0, json=True", None),
    "downloads": (
        "10 small files",
        "*(f'{url}/{i}.bin' for i in range(10 * n)), to='files'",
        None,
    ),
    "database": ("100 transfers", "transfers=100 * n", None),
    "etl": ("1,000 rows", "'sales.csv'", csv),
    "media": ("4 pictures", "Path('pictures'), to=Path('small')", pictures),
    "training": ("1 epoch", "epochs=n", None),
    "jobs": ("50 files", "Path('tree')", files),
}


@contextmanager
def api() -> Iterator[str]:
    """The local API of api_client's benchmark; yields its URL."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("api_client.py")),
        "--serve",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert server.stdin
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def measure(starter: str, n: int, url: str) -> tuple[float, float]:
    """Return the seconds and the peak of memory (MB) of a starter with ``n`` times its
    work.
    """
    _, arguments, prepare = WORKS[starter]
    with TemporaryDirectory() as name:
        folder = Path(name)
        if prepare:
            prepare(folder, n)
        (folder / "work.py").write_text(
            CHILD.format(starter=starter, arguments=arguments), encoding="utf-8"
        )
        command = [
            sys.executable,
            "work.py",
            str(TEMPLATE / "templates"),
            str(n),
            url,
        ]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        took, memory = json.loads((folder / "took.json").read_text(encoding="utf-8"))
    return took, memory


async def chat() -> dict[str, list[float]]:
    """Return the seconds and the server's memory for 20 messages to 50 clients, and 10
    and 100 times as many.
    """
    from chat import crowd

    took, memory = [], []
    async with crowd("room", 50) as room:
        for n in TIMES:
            took.append(sum([(await room.round(1, 80))[1] for _ in range(n)]))
            memory.append((await room.ask())[1])
    return {"seconds": took, "memory_mb": memory}


def renders(rounds: int) -> list[float]:
    """Return the median seconds of a render of a template with 1, 2, ... starters."""
    medians = []
    with TemporaryDirectory() as name:
        folder = Path(name) / "template"
        shutil.copytree(
            TEMPLATE,
            folder,
            ignore=shutil.ignore_patterns(".*_cache", ".venv", ".git", "docs", "tests"),
        )
        questions = json.loads(
            (folder / "cookiecutter.json").read_text(encoding="utf-8")
        )
        for count in range(1, len(STARTERS) + 1):
            questions["starter"] = STARTERS[:count]
            for starter in STARTERS:
                offered, stowed = folder / "templates" / starter, Path(name) / starter
                if starter in STARTERS[:count] and stowed.exists():
                    stowed.rename(offered)
                elif starter not in STARTERS[:count] and offered.exists():
                    offered.rename(stowed)
            (folder / "cookiecutter.json").write_text(
                json.dumps(questions), encoding="utf-8"
            )
            times = [seconds(folder, Path(name) / "out") for _ in range(rounds + 1)]
            medians.append(statistics.median(times[1:]))
    return medians


def main() -> None:
    options = harness.parser(__doc__, rounds=5).parse_args()
    grown: dict[str, dict[str, list[float]]] = {}
    with api() as url:
        for starter in [name for name in STARTERS if name in WORKS]:
            both = [measure(starter, n, url) for n in TIMES]
            grown[starter] = {
                "seconds": [it[0] for it in both],
                "memory_mb": [it[1] for it in both],
            }
    if "chat" in STARTERS:
        grown["chat"] = asyncio.run(chat())
    print(
        f"{'starter':>12}  {'1x':>28}  {'1x, 10x, 100x (s)':>24}  {'memory (MB)':>20}"
    )
    for starter, it in grown.items():
        one = WORKS[starter][0] if starter in WORKS else "20 messages to 50 clients"
        took = " ".join(f"{value:7.2f}" for value in it["seconds"])
        memory = " ".join(f"{value:6.0f}" for value in it["memory_mb"])
        print(f"{starter:>12}  {one:>28}  {took:>24}  {memory:>20}")
    rendered = renders(options.rounds)
    print(
        "render with 1, 2, ... starters (ms): "
        + " ".join(f"{value * 1000:.0f}" for value in rendered)
    )
    harness.keep(
        {"times": TIMES, "starters": grown, "render_s": rendered}, options.json
    )


if __name__ == "__main__":
    main()
