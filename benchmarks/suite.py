"""Measure the time of all tests of the template.

    uv run --group bench python benchmarks/suite.py

Runs pytest as a process, without a warm-up.
"""

import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import harness


@dataclass
class Run:
    """The time of a run in minutes, and the number of tests that passed."""

    minutes: float
    passed: int


def run() -> Run:
    """Run all tests. Exits with the output of pytest if one fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q"]
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(done.stdout)
    minutes = (time.perf_counter() - started) / 60
    (passed,) = re.findall(r"(\d+) passed", done.stdout.splitlines()[-1])
    return Run(minutes, int(passed))


def main() -> None:
    options = harness.parser(__doc__, rounds=1).parse_args()
    runs = [run() for _ in range(options.rounds)]
    minutes = statistics.median(run.minutes for run in runs)
    passed = runs[0].passed
    print(f"{minutes:.1f} minutes, {passed} passed")
    harness.keep({"minutes": minutes, "passed": passed}, options.json)


if __name__ == "__main__":
    main()
