"""How long the template's own tests take, all of them.

uv run --group bench python benchmarks/suite.py [--json FILE]
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q"]
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)
    (passed,) = re.findall(r"(\d+) passed", done.stdout.splitlines()[-1])
    results = {"minutes": (time.perf_counter() - started) / 60, "passed": int(passed)}
    print(f"{results['minutes']:.1f} minutes, {passed} passed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
