"""What the guards cost: empty async tests with the generated guards against plain
pytest-asyncio, in one run.

    uv run python benchmarks/guards.py [--tests 1000] [--rounds 5] [--json FILE]

Both suites are the same file and run as whole processes, in turns, after one warm-up
each. Wall time is what a user waits; CPU time is what the guards take, whatever else
the machine does.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
asyncio_default_test_loop_scope = function
filterwarnings = error
timeout = 60
"""


def suite(folder: Path, tests: int, guards: bool) -> Path:
    """Make a project with a package and this many empty async tests."""
    (folder / "src" / "package").mkdir(parents=True)
    (folder / "src" / "package" / "__init__.py").touch()
    (folder / "pytest.ini").write_text(SETTINGS, encoding="utf-8")
    text = "\n\n".join(
        f"async def test_{number}() -> None: ..." for number in range(tests)
    )
    (folder / "test_empty.py").write_text(text, encoding="utf-8")
    if guards:
        shutil.copy(TEMPLATES / "conftest.py", folder)
        shutil.copytree(TEMPLATES / "guards", folder / "guards")
    return folder


def seconds(folder: Path) -> tuple[float, float]:
    """Run the suite; return its wall time and its CPU time."""
    plugins = ("asyncio", "timeout", "pytest_mock")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *(part for name in plugins for part in ("-p", name)),
    ]
    env = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(folder / "src"),
    }
    wall, cpu = time.perf_counter(), os.times()
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    done = os.times()
    took = (
        done.children_user
        + done.children_system
        - cpu.children_user
        - cpu.children_system
    )
    return time.perf_counter() - wall, took


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--tests", type=int, default=1000)
    options = parser.parse_args()
    with TemporaryDirectory() as out:
        suites = {
            name: suite(Path(out) / name, options.tests, name == "guards")
            for name in ("plain", "guards")
        }
        times = harness.in_turns(
            options.rounds,
            {name: partial(seconds, folder) for name, folder in suites.items()},
        )
    result: dict[str, float] = {"tests": options.tests}
    print(f"{options.tests} empty tests, ms/test    wall     CPU")
    for name, taken in times.items():
        for kind, values in zip(("wall", "cpu"), zip(*taken, strict=True), strict=True):
            result[f"{name}_{kind}_ms"] = (
                statistics.median(values) / options.tests * 1000
            )
    for kind in "wall", "cpu":
        result[f"cost_{kind}_ms"] = (
            result[f"guards_{kind}_ms"] - result[f"plain_{kind}_ms"]
        )
    for name in "plain", "guards", "cost":
        print(
            f"{name:>22}  {result[f'{name}_wall_ms']:9.2f}  {result[f'{name}_cpu_ms']:6.2f}"  # noqa: E501
        )
    harness.keep(result, options.json)


if __name__ == "__main__":
    main()
