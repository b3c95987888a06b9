"""What the guards cost: the same suites with them and with plain pytest-asyncio.

    uv run python benchmarks/guards.py [--tests 1000] [--rounds 5] [--json FILE]

One suite has empty async tests. In the other each test starts a server, sends ten
messages to it over a socket, and calls a mock with a spec: about what small tests of a
real project do. The suites run as whole processes, in turns, after one warm-up each.
Wall time is what a user waits; CPU time is what the guards take, whatever else the
machine does.
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
    """Seconds that one run of a suite took."""

    wall: float
    cpu: float


def make_suite(folder: Path, tests: int, busy: bool, guards: bool) -> Path:
    """Make a project with a package and this many small async tests."""
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
    return statistics.median(seconds) / tests * 1000


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--tests", type=int, default=1000)
    options = parser.parse_args()
    result: dict[str, float] = {"tests": options.tests}
    print(f"{options.tests} tests, ms/test          wall     CPU")
    with TemporaryDirectory() as out:
        for kind in ("empty", "busy"):
            suites = {}
            for name in ("plain", "guards"):
                folder = Path(out) / kind / name
                suite = make_suite(
                    folder, options.tests, busy=kind == "busy", guards=name == "guards"
                )
                suites[name] = partial(run, suite)
            times = harness.in_turns(options.rounds, suites)
            # The names of the empty tests' results are those of the older benchmark.
            prefix = "" if kind == "empty" else "busy_"
            for name, taken in times.items():
                wall = milliseconds([each.wall for each in taken], options.tests)
                cpu = milliseconds([each.cpu for each in taken], options.tests)
                result[f"{prefix}{name}_wall_ms"] = wall
                result[f"{prefix}{name}_cpu_ms"] = cpu
                print(f"{kind:>12} {name:>9}  {wall:9.2f}  {cpu:6.2f}")
            for unit in ("wall_ms", "cpu_ms"):
                guards = result[f"{prefix}guards_{unit}"]
                result[f"{prefix}cost_{unit}"] = (
                    guards - result[f"{prefix}plain_{unit}"]
                )
            wall, cpu = result[f"{prefix}cost_wall_ms"], result[f"{prefix}cost_cpu_ms"]
            print(f"{kind:>12} {'cost':>9}  {wall:9.2f}  {cpu:6.2f}")
    harness.keep(result, options.json)


if __name__ == "__main__":
    main()
