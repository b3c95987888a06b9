"""How long the template's own tests take, all of them.

uv run --group bench python benchmarks/suite.py [--json FILE]
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import harness


def main() -> None:
    options = harness.parser(__doc__).parse_args()
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q"]
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout)
    (passed,) = re.findall(r"(\d+) passed", done.stdout.splitlines()[-1])
    results = {"minutes": (time.perf_counter() - started) / 60, "passed": int(passed)}
    print(f"{results['minutes']:.1f} minutes, {passed} passed")
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
