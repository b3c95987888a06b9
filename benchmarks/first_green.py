"""From nothing to the first green suite: this template against `uv init --package`.

The other project has pytest, ruff and mypy in its dev group, as ours has, and one test.

    uv run --group bench python benchmarks/first_green.py [--rounds 5] [--json FILE]

Timed are all the commands that a user gives, as whole processes, with what they install
in uv's cache already: the first round fills it and does not count. Both take turns in
one run.
"""

import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import TEMPLATE, execute

UV = shutil.which("uv") or "uv"
ONE_TEST = "def test_it() -> None:\n    assert True\n"


def run(folder: Path, *command: str) -> str:
    """Run a command as a user does, and return what it says."""
    done = execute(folder, *command)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def ours(folder: Path) -> str:
    """Render the default project, and run its suite."""
    run(folder, sys.executable, "-m", "cookiecutter", "--no-input", str(TEMPLATE))
    return run(
        folder / "my-async-project",
        UV,
        "run",
        "--python",
        sys.executable,
        "pytest",
        "-q",
    )


def bare(folder: Path) -> str:
    """Make a package with a dev group and one test, and run it."""
    init = (UV, "init", "--quiet", "--package", "--python", sys.executable, "bare")
    run(folder, *init)
    project = folder / "bare"
    with (project / "pyproject.toml").open("a", encoding="utf-8") as pyproject:
        pyproject.write('\n[dependency-groups]\ndev = ["mypy", "pytest", "ruff"]\n')
    (project / "test_it.py").write_text(ONE_TEST, encoding="utf-8")
    return run(project, UV, "run", "pytest", "-q")


def timed(way: Callable[[Path], str]) -> tuple[float, int]:
    """Go a way in a folder of its own; return the seconds it took, and how many tests
    have passed.
    """
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        said = way(Path(folder))
        took = time.perf_counter() - started
    (passed,) = re.findall(r"(\d+) passed", said)
    return took, int(passed)


def main() -> None:
    options = harness.parser(__doc__, rounds=5).parse_args()
    ways = {"uv init --package": bare, "async-template": ours}
    runs = harness.in_turns(
        options.rounds, {name: partial(timed, way) for name, way in ways.items()}
    )
    medians = {
        name: statistics.median(took for took, _ in taken)
        for name, taken in runs.items()
    }
    tests = {name: taken[0][1] for name, taken in runs.items()}
    results = {
        "seconds": medians,
        "tests": tests,
        "ratio": medians["async-template"] / medians["uv init --package"],
        "more_tests": tests["async-template"] / tests["uv init --package"],
    }
    for name, median in medians.items():
        print(f"{name:>18}  {median:6.2f} s  {tests[name]:4} tests")
    print(f"{'ratio':>18}  {results['ratio']:6.2f}")
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
