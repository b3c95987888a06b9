"""How long a render takes, as a ratio: this template against a template of one file without hooks, in one run.

    uv run python benchmarks/render.py [--rounds N] [--json FILE]

Both are timed as whole processes (`python -m cookiecutter --no-input`), in turns, after one warm-up each.
"""

import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

TEMPLATE = Path(__file__).resolve().parents[1]


def one_file_template(folder: Path) -> Path:
    """Make the smallest template: one question, one file, no hook."""
    project = folder / "{{cookiecutter.name}}"
    project.mkdir(parents=True)
    (folder / "cookiecutter.json").write_text('{"name": "x"}', encoding="utf-8")
    (project / "file.txt").write_text("{{ cookiecutter.name }}\n", encoding="utf-8")
    return folder


def seconds(template: Path, out: Path) -> float:
    """Time one render of ``template`` into ``out``."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-f", "-o", str(out), str(template)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    options = harness.parser(__doc__, rounds=15).parse_args()
    with TemporaryDirectory() as folder:
        templates = {"one file": one_file_template(Path(folder) / "bare"), "async-template": TEMPLATE}
        ways = {name: partial(seconds, template, Path(folder) / "out") for name, template in templates.items()}
        times = harness.in_turns(options.rounds, ways)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratio = medians["async-template"] / medians["one file"]
    for name, median in medians.items():
        print(f"{name:>15}  {median * 1000:6.0f} ms")
    print(f"{'ratio':>15}  {ratio:6.2f}")
    harness.keep({"seconds": medians, "ratio": ratio}, options.json)


if __name__ == "__main__":
    main()
