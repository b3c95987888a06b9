"""Measure how time and memory of the starters grow with 1, 10 and 100 times the work.

    uv run --group bench python benchmarks/growth.py

Each starter runs its `main` in a process of its own. The time is that of `main`
without the imports; the memory is the peak of the process. The work of `chat` is
messages to 50 clients; `api_server` is not measured here. Also measures the time of a
render with one starter in the template, two, and so on; `--rounds` is for these
renders.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
from render import TEMPLATE, seconds

QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
STARTERS: list[str] = QUESTIONS["starter"]
BENCHMARKS = Path(__file__).resolve().parent
TIMES = (1, 10, 100)
CHILD = """
import asyncio, json, logging, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from {starter}.app import main
async def work(n, url):
    return await main({arguments})
if __name__ == "__main__":
    logging.disable()
    started = time.perf_counter()
    status = asyncio.run(work(int(sys.argv[2]), sys.argv[3]))
    seconds = time.perf_counter() - started
    assert status == 0, status
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cost = dict(seconds=seconds, memory=memory)
    Path("cost.json").write_text(json.dumps(cost))
"""


@dataclass
class Cost:
    """Time in seconds, and peak memory in MB."""

    seconds: float
    memory: float


def prepare_nothing(folder: Path, n: int) -> None:
    """Leave the folder empty."""


def write_csv(folder: Path, n: int) -> None:
    """Write the rows that the etl starter loads."""
    lines = ["id,item,day,cents"]
    for key in range(1, 1000 * n + 1):
        day = f"2026-01-{key % 28 + 1:02}"
        lines.append(f"{key},shop {key % 7},{day},{key % 99}50")
    text = "\n".join(lines) + "\n"
    (folder / "sales.csv").write_text(text, encoding="utf-8")


def make_pictures(folder: Path, n: int) -> None:
    """Make the pictures of which the media starter makes thumbnails."""
    import numpy as np
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(pictures / "0.jpg")
    for number in range(1, 4 * n):
        shutil.copy(pictures / "0.jpg", pictures / f"{number}.jpg")


def write_files(folder: Path, n: int) -> None:
    """Write the files that the jobs starter describes."""
    tree = folder / "tree"
    tree.mkdir()
    for number in range(50 * n):
        text = f"{number}\n" * 100
        (tree / f"{number}.txt").write_text(text, encoding="utf-8")


@dataclass
class Work:
    """The work of a starter.

    `unit` describes the work at 1x. `arguments` is the source text of the arguments of
    `main`; it may use `n`, the factor, and `url`, the address of a local API. `prepare`
    writes the input for the factor n into a folder.
    """

    unit: str
    arguments: str
    prepare: Callable[[Path, int], None] = prepare_nothing


WORKS = {
    "api_client": Work("20 facts", "20 * n, base_url=url, deadline=600.0, json=True"),
    "downloads": Work(
        "10 small files", "*(f'{url}/{i}.bin' for i in range(10 * n)), to='files'"
    ),
    "database": Work("100 transfers", "transfers=100 * n"),
    "etl": Work("1,000 rows", "'sales.csv'", write_csv),
    "media": Work("4 pictures", "Path('pictures'), to=Path('small')", make_pictures),
    "training": Work("1 epoch", "epochs=n"),
    "jobs": Work("50 files", "Path('tree')", write_files),
}
CHAT_UNIT = "20 messages to 50 clients"


@contextmanager
def api() -> Iterator[str]:
    """Run the API of the benchmark of api_client for the block; yield its URL."""
    command = [sys.executable, str(BENCHMARKS / "api_client.py"), "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert server.stdin
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def measure(starter: str, n: int, url: str) -> Cost:
    """Return the cost of a starter with n times the work."""
    work = WORKS[starter]
    with TemporaryDirectory() as name:
        folder = Path(name)
        work.prepare(folder, n)
        code = CHILD.format(starter=starter, arguments=work.arguments)
        (folder / "work.py").write_text(code, encoding="utf-8")
        arguments = [str(TEMPLATE / "templates"), str(n), url]
        done = subprocess.run(
            [sys.executable, "work.py", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Cost(**json.loads((folder / "cost.json").read_text(encoding="utf-8")))


async def measure_chat() -> list[Cost]:
    """Return the cost of 20 messages to 50 clients, and of 10 and 100 times as many."""
    # An `import chat` would hide the package of the starter, which the module imports.
    spec = spec_from_file_location("chat_benchmark", BENCHMARKS / "chat.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    costs = []
    async with benchmark.crowd("room", 50) as room:
        for n in TIMES:
            seconds = 0.0
            for _ in range(n):
                measured = await room.round(1, 80)
                seconds += measured.seconds
            usage = await room.usage()
            costs.append(Cost(seconds, usage.memory))
    return costs


def measure_renders(rounds: int) -> list[float]:
    """Return the median time, in seconds, of a render with 1, 2, ... starters."""
    medians = []
    with TemporaryDirectory() as name:
        template = Path(name) / "template"
        ignored = shutil.ignore_patterns(".*_cache", ".venv", ".git", "docs", "tests")
        shutil.copytree(TEMPLATE, template, ignore=ignored)
        for starter in STARTERS:
            shutil.rmtree(template / "templates" / starter)
        for count, starter in enumerate(STARTERS, start=1):
            folder = Path("templates") / starter
            shutil.copytree(TEMPLATE / folder, template / folder)
            questions = QUESTIONS | {"starter": STARTERS[:count]}
            text = json.dumps(questions)
            (template / "cookiecutter.json").write_text(text, encoding="utf-8")
            times = [seconds(template, Path(name) / "out") for _ in range(rounds + 1)]
            # The first render is the warm-up.
            medians.append(statistics.median(times[1:]))
    return medians


def show(starter: str, unit: str, costs: list[Cost]) -> None:
    """Print the costs of a starter as a row of the table."""
    times = " ".join(f"{cost.seconds:7.2f}" for cost in costs)
    memory = " ".join(f"{cost.memory:6.0f}" for cost in costs)
    print(f"{starter:>12}  {unit:>28}  {times:>24}  {memory:>20}")


def main() -> None:
    options = harness.parser(__doc__, rounds=5).parse_args()
    print(
        f"{'starter':>12}  {'1x':>28}  {'1x, 10x, 100x (s)':>24}  {'memory (MB)':>20}"
    )
    grown: dict[str, list[Cost]] = {}
    with api() as url:
        for starter, work in WORKS.items():
            grown[starter] = [measure(starter, n, url) for n in TIMES]
            show(starter, work.unit, grown[starter])
    grown["chat"] = asyncio.run(measure_chat())
    show("chat", CHAT_UNIT, grown["chat"])
    renders = measure_renders(options.rounds)
    milliseconds = " ".join(f"{value * 1000:.0f}" for value in renders)
    print(f"render with 1, 2, ... starters (ms): {milliseconds}")

    starters = {}
    for starter, costs in grown.items():
        starters[starter] = {
            "seconds": [cost.seconds for cost in costs],
            "memory_mb": [cost.memory for cost in costs],
        }
    results = {"times": TIMES, "starters": starters, "render_s": renders}
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
