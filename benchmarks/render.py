"""Measure the time of a render, against a template of one file without hooks.

    uv run --group bench python benchmarks/render.py

Each render is a process, `python -m cookiecutter --no-input`. A third template has as
many files as this one, each with one placeholder. It shows how much of the time is
cookiecutter's own.
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


def small_template(folder: Path, files: int) -> Path:
    """Make a template with one question and some files, each with one placeholder."""
    project = folder / "{{cookiecutter.name}}"
    project.mkdir(parents=True)
    (folder / "cookiecutter.json").write_text('{"name": "x"}', encoding="utf-8")
    for number in range(files):
        (project / f"file{number}.txt").write_text(
            "{{ cookiecutter.name }}\n", encoding="utf-8"
        )
    return folder


def seconds(template: Path, out: Path) -> float:
    """Return the time of one render of a template into the folder `out`."""
    options = ["--no-input", "-f", "-o", str(out)]
    command = [sys.executable, "-m", "cookiecutter", *options, str(template)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started


def main() -> None:
    options = harness.parser(__doc__, rounds=31).parse_args()
    with TemporaryDirectory() as folder:
        project = TEMPLATE / "{{cookiecutter.project_slug}}"
        files = [path for path in project.rglob("*") if path.is_file()]
        one_file = small_template(Path(folder) / "one", 1)
        many_files = small_template(Path(folder) / "many", len(files))
        out = Path(folder) / "out"
        ways = {
            "one file": partial(seconds, one_file, out),
            "as many files": partial(seconds, many_files, out),
            "async-template": partial(seconds, TEMPLATE, out),
        }
        times = harness.in_turns(options.rounds, ways)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {}
    for name, taken in times.items():
        # The speed of the machine may differ between rounds, so a ratio is computed in
        # each round.
        pairs = zip(taken, times["one file"], strict=True)
        ratios[name] = statistics.median(time / one for time, one in pairs)
    for name, median in medians.items():
        print(f"{name:>15}  {median * 1000:6.0f} ms  {ratios[name]:.2f}x")
    harness.keep({"seconds": medians, "ratios": ratios}, options.json)


if __name__ == "__main__":
    main()
