"""From nothing to the first green suite: a project of this template against `uv init` and one async test.

    uv run --group bench python benchmarks/first_green.py [--rounds 5] [--json FILE]

Timed are all the commands that a user gives, as whole processes, with what they install in uv's cache already: the
first round fills it and does not count. Both take turns in one run.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

TEMPLATE = Path(__file__).resolve().parents[1]
UV = shutil.which("uv") or "uv"
ONE_TEST = "import asyncio\n\n\nasync def test_it() -> None:\n    await asyncio.sleep(0)\n"
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "UV_PROJECT"))}


def run(folder: Path, *command: str) -> str:
    """Run a command as a user does, and return what it says."""
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


def ours(folder: Path) -> str:
    """Render the default project, and run its suite."""
    run(folder, sys.executable, "-m", "cookiecutter", "--no-input", str(TEMPLATE))
    return run(folder / "my-async-project", UV, "run", "--python", sys.executable, "pytest", "-q")


def bare(folder: Path) -> str:
    """Make an empty project with one async test, and run it."""
    run(folder, UV, "init", "--quiet", "--python", sys.executable, "bare")
    run(folder / "bare", UV, "add", "--quiet", "--dev", "pytest", "pytest-asyncio")
    (folder / "bare" / "test_it.py").write_text(ONE_TEST, encoding="utf-8")
    return run(folder / "bare", UV, "run", "pytest", "-q", "-o", "asyncio_mode=auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = {"uv init, one test": bare, "async-template": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    tests: dict[str, int] = {}
    for turn in range(options.rounds + 1):
        for name, way in ways.items():
            with TemporaryDirectory() as folder:
                started = time.perf_counter()
                said = way(Path(folder))
                if turn:
                    times[name].append(time.perf_counter() - started)
            (passed,) = re.findall(r"(\d+) passed", said)
            tests[name] = int(passed)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    results = {
        "seconds": medians,
        "tests": tests,
        "ratio": medians["async-template"] / medians["uv init, one test"],
        "more_tests": tests["async-template"] / tests["uv init, one test"],
    }
    for name, median in medians.items():
        print(f"{name:>18}  {median:6.2f} s  {tests[name]:4} tests")
    print(f"{'ratio':>18}  {results['ratio']:6.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
