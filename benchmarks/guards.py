"""Measure the cost of the guards per test, against plain pytest-asyncio.

    uv run --group bench python benchmarks/guards.py

One suite has 1,000 empty async tests. In the other, each test starts a server, sends
ten messages to it over a socket and calls a mock with a spec, like a small test of a
real project. Each suite runs as a process, with the guards and without. The CPU time
depends less than the wall time on other programs that run.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}"
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
asyncio_default_test_loop_scope = function
filterwarnings = error
timeout = 60
"""
EMPTY_TEST = "async def test_{number}(): ..."
BUSY_TEST = """
async def test_{number}(server):
    mailer = create_autospec(Mailer, instance=True)
    reader, writer = await asyncio.open_connection(*server)
    for _ in range(10):
        writer.write(b"hello\\n")
        assert await reader.readline() == b"hello\\n"
        await mailer.send("you")
    writer.close()
    await writer.wait_closed()
    assert mailer.send.await_count == 10
"""
BUSY_HEAD = """
import asyncio
from unittest.mock import create_autospec

import pytest_asyncio


class Mailer:
    async def send(self, to): ...


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()


@pytest_asyncio.fixture
async def server():
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()
"""
PLUGINS = ("asyncio", "timeout", "pytest_mock")


@dataclass
class Times:
    """The time of one run of a suite, in seconds."""

    wall: float
    cpu: float


def make_suite(folder: Path, tests: int, busy: bool, guards: bool) -> Path:
    """Make a project with a package and a number of async tests."""
    package = folder / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (folder / "pytest.ini").write_text(SETTINGS, encoding="utf-8")
    parts = [BUSY_HEAD] if busy else []
    test = BUSY_TEST if busy else EMPTY_TEST
    for number in range(tests):
        parts.append(test.replace("{number}", str(number)))
    (folder / "test_small.py").write_text("\n\n".join(parts), encoding="utf-8")
    if guards:
        shutil.copy(PROJECT / "conftest.py", folder)
        shutil.copytree(PROJECT / "guards", folder / "guards")
    return folder


def run(folder: Path) -> Times:
    """Run the suite of a project."""
    command = [sys.executable, "-m", "pytest", "-q"]
    for name in PLUGINS:
        command += ["-p", name]
    env = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}",
    }
    before = os.times()
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    after = os.times()
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return Times(wall, user + system)


def milliseconds(seconds: list[float], tests: int) -> float:
    """Return the median time per test."""
    return statistics.median(seconds) / tests * 1000


def measure(folder: Path, tests: int, rounds: int, busy: bool) -> dict[str, float]:
    """Compare a suite with and without the guards; return milliseconds per test."""
    plain = make_suite(folder / "plain", tests, busy, guards=False)
    guarded = make_suite(folder / "guards", tests, busy, guards=True)
    suites = {"plain": partial(run, plain), "guards": partial(run, guarded)}
    figures = {}
    for name, runs in harness.in_turns(rounds, suites).items():
        figures[f"{name}_wall_ms"] = milliseconds([each.wall for each in runs], tests)
        figures[f"{name}_cpu_ms"] = milliseconds([each.cpu for each in runs], tests)
    for unit in ("wall_ms", "cpu_ms"):
        figures[f"cost_{unit}"] = figures[f"guards_{unit}"] - figures[f"plain_{unit}"]
    return figures


def show(kind: str, figures: dict[str, float]) -> None:
    """Print the figures of a suite as rows of the table."""
    for name in ("plain", "guards", "cost"):
        wall = figures[f"{name}_wall_ms"]
        cpu = figures[f"{name}_cpu_ms"]
        print(f"{kind:>12} {name:>9}  {wall:9.2f}  {cpu:6.2f}")


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument(
        "--tests",
        type=int,
        default=1000,
        metavar="N",
        help="Number of tests in a suite; 1000 by default.",
    )
    options = parser.parse_args()
    results: dict[str, float] = {"tests": options.tests}
    print(f"{options.tests} tests, ms/test          wall     CPU")
    with TemporaryDirectory() as out:
        empty = measure(Path(out) / "empty", options.tests, options.rounds, busy=False)
        show("empty", empty)
        busy = measure(Path(out) / "busy", options.tests, options.rounds, busy=True)
        show("busy", busy)
    results |= empty
    for name, figure in busy.items():
        results[f"busy_{name}"] = figure
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
