"""Measure the time from nothing to a passed suite, against `uv init --package`.

    uv run --group bench python benchmarks/first_green.py

One side renders the default project and runs its suite. The other side makes a bare
project with pytest, ruff and mypy in its dev group, and runs one test. The time is that
of all commands, as processes. The warm-up fills uv's cache with the packages.
"""

import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import TEMPLATE, execute

UV = shutil.which("uv") or "uv"
ONE_TEST = "def test_it() -> None:\n    assert True\n"


def run(folder: Path, *command: str) -> str:
    """Run a command as in a user's shell, and return its output.

    Exits with the output if the command fails.
    """
    done = execute(folder, *command)
    if done.returncode != 0:
        sys.exit(done.stdout)
    return done.stdout


def template_project(folder: Path) -> str:
    """Render the default project and run its suite; return the output of pytest."""
    run(folder, sys.executable, "-m", "cookiecutter", "--no-input", str(TEMPLATE))
    project = folder / "my-async-project"
    return run(project, UV, "run", "--python", sys.executable, "pytest", "-q")


def bare_project(folder: Path) -> str:
    """Make a bare project and run its only test; return the output of pytest."""
    init = (UV, "init", "--quiet", "--package", "--python", sys.executable, "bare")
    run(folder, *init)
    project = folder / "bare"
    with (project / "pyproject.toml").open("a", encoding="utf-8") as pyproject:
        pyproject.write('\n[dependency-groups]\ndev = ["mypy", "pytest", "ruff"]\n')
    (project / "test_it.py").write_text(ONE_TEST, encoding="utf-8")
    return run(project, UV, "run", "pytest", "-q")


@dataclass
class Run:
    """The time of all commands, and the number of tests that passed."""

    seconds: float
    tests: int


def timed(make_and_test: Callable[[Path], str]) -> Run:
    """Make and test a project in a new folder."""
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        output = make_and_test(Path(folder))
        seconds = time.perf_counter() - started
    (passed,) = re.findall(r"(\d+) passed", output)
    return Run(seconds, int(passed))


def main() -> None:
    options = harness.parser(__doc__, rounds=5).parse_args()
    ways = {
        "uv init --package": partial(timed, bare_project),
        "async-template": partial(timed, template_project),
    }
    medians = {}
    tests = {}
    for name, runs in harness.in_turns(options.rounds, ways).items():
        medians[name] = statistics.median(run.seconds for run in runs)
        tests[name] = runs[0].tests
    results = {
        "seconds": medians,
        "tests": tests,
        "ratio": medians["async-template"] / medians["uv init --package"],
    }
    for name, median in medians.items():
        print(f"{name:>18}  {median:6.2f} s  {tests[name]:4} tests")
    print(f"{'ratio':>18}  {results['ratio']:6.2f}")
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
