"""How long a render takes, as a ratio: this template against a template of one file
without hooks, in one run.

    uv run python benchmarks/render.py [--rounds N] [--json FILE]

All are timed as whole processes (`python -m cookiecutter --no-input`), in turns, after
one warm-up each. A third template tells how much of it is cookiecutter's own: as many
files as this one, each one placeholder.
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


def smallest(folder: Path, files: int) -> Path:
    """Make a template of one question and ``files`` files of one placeholder."""
    project = folder / "{{cookiecutter.name}}"
    project.mkdir(parents=True)
    (folder / "cookiecutter.json").write_text('{"name": "x"}', encoding="utf-8")
    for number in range(files):
        (project / f"file{number}.txt").write_text(
            "{{ cookiecutter.name }}\n", encoding="utf-8"
        )
    return folder


def seconds(template: Path, out: Path) -> float:
    """Time one render of ``template`` into ``out``."""
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "cookiecutter",
        "--no-input",
        "-f",
        "-o",
        str(out),
        str(template),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    options = harness.parser(__doc__, rounds=31).parse_args()
    with TemporaryDirectory() as folder:
        files = sum(
            path.is_file()
            for path in (TEMPLATE / "{{cookiecutter.project_slug}}").rglob("*")
        )
        templates = {
            "one file": smallest(Path(folder) / "one", 1),
            "as many files": smallest(Path(folder) / "many", files),
            "async-template": TEMPLATE,
        }
        ways = {
            name: partial(seconds, template, Path(folder) / "out")
            for name, template in templates.items()
        }
        times = harness.in_turns(options.rounds, ways)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {  # of each round, as the machine may be faster in one than in another
        name: statistics.median(
            took / one for took, one in zip(taken, times["one file"], strict=True)
        )
        for name, taken in times.items()
    }
    for name, median in medians.items():
        print(f"{name:>15}  {median * 1000:6.0f} ms  {ratios[name]:.2f}x")
    harness.keep({"seconds": medians, "ratios": ratios}, options.json)


if __name__ == "__main__":
    main()
