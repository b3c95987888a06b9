"""Run the benchmarks, and write what they measured into docs/ and the README.

    uv run --group bench python benchmarks/report.py            # all of them
    uv run --group bench python benchmarks/report.py render etl # only these

All of them take about an hour on a quiet machine. The results of each script are in
docs/figures/<script>.json, with the machine, the date and the versions. docs/figures.md
shows all figures, with the reason for each goal that is missed, and the README shows
those that matter most. benchmarks/figures.toml lists the figures.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import TEMPLATE, put_between

RESULTS = TEMPLATE / "docs" / "figures"
BEGIN = "<!-- figures: begin -->\n"
END = "<!-- figures: end -->\n"
PAGE = TEMPLATE / "docs" / "figures.md"
README = TEMPLATE / "README.md"
PACKAGES = """
    aiohttp aiosqlite cookiecutter fastapi httpx httpx2 nats-py numpy obstore
    opencv-python-headless pandas pillow pydantic pytest pytest-asyncio pyvips redis
    scikit-learn soundfile sqlalchemy sqlite-utils uv uvicorn
""".split()


@dataclass(frozen=True)
class Figure:
    """A figure, what it is measured against, and its goal, if it has one.

    `path` has the keys that lead to the number in the results of the benchmark
    `script`. `why_missed` is a sentence for a goal that is missed.
    """

    script: str
    name: str
    path: list[str]
    against: str = "-"
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "x"
    readme: bool = False
    why_missed: str = ""

    def value(self) -> float | None:
        """Return what was measured last, or None if nothing was."""
        file = RESULTS / f"{self.script}.json"
        if not file.exists():
            return None
        found: Any = json.loads(file.read_text(encoding="utf-8"))["results"]
        for key in self.path:
            if key not in found:
                return None
            found = found[key]
        return float(found)

    def goal(self) -> str:
        """Return the goal as the table shows it."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}{self.unit}"
        if self.at_least is not None:
            return f">= {self.at_least:g}{self.unit}"
        return "-"

    def is_missed(self) -> bool:
        """Return whether the figure was measured and misses its goal."""
        value = self.value()
        if value is None:
            return False
        if self.at_most is not None:
            return value > self.at_most
        if self.at_least is not None:
            return value < self.at_least
        return False


def read_figures() -> list[Figure]:
    """Return the figures that benchmarks/figures.toml lists."""
    text = (TEMPLATE / "benchmarks" / "figures.toml").read_text(encoding="utf-8")
    return [Figure(**entry) for entry in tomllib.loads(text)["figure"]]


FIGURES = read_figures()
SCRIPTS = [*dict.fromkeys(figure.script for figure in FIGURES), "growth"]


def readme_figures() -> list[Figure]:
    """Return the figures that the README shows."""
    return [figure for figure in FIGURES if figure.readme]


def table(figures: list[Figure]) -> str:
    """Return a table of figures. A figure that misses its goal is bold."""
    rows = ["| figure | measured against | goal | measured |", "|---|---|---|---|"]
    for figure in figures:
        value = figure.value()
        if value is None:
            continue
        measured = f"{value:.{digits(value)}f}{figure.unit}"
        if figure.is_missed():
            measured = f"**{measured}**"
        rows.append(
            f"| {figure.name} | {figure.against} | {figure.goal()} | {measured} |"
        )
    return "\n".join(rows) + "\n"


def digits(value: float) -> int:
    """Return how many digits to show after the decimal point."""
    if value >= 100:
        return 0
    if value >= 10:
        return 1
    return 2


def missed_goals(figures: list[Figure]) -> str:
    """Return a list of the goals that are missed, each with the reason."""
    missed = [figure for figure in figures if figure.is_missed()]
    if not missed:
        return ""
    lines = ["", "Goals that are missed, and why:", ""]
    for figure in missed:
        lines.append(f"- {figure.name}, against {figure.against}: {figure.why_missed}")
    return "\n".join(lines) + "\n"


def write_pages() -> None:
    """Write the figures into docs/figures.md and the README."""
    put_between(PAGE, BEGIN, table(FIGURES) + missed_goals(FIGURES), END)
    put_between(README, BEGIN, table(readme_figures()), END)


def measure(script: str, rounds: int | None) -> None:
    """Run a benchmark, and keep its results.

    `rounds` is passed to the benchmark; None leaves it at the benchmark's default.
    """
    file = RESULTS / f"{script}.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    print(f"== {script}", flush=True)
    options = [] if rounds is None else ["--rounds", str(rounds)]
    program = TEMPLATE / "benchmarks" / f"{script}.py"
    subprocess.run(
        [sys.executable, str(program), "--json", str(file), *options],
        check=True,
        cwd=TEMPLATE,
    )
    command = ["uv run --group bench python", f"benchmarks/{script}.py", *options]
    record = {
        "command": " ".join(command),
        "date": date.today().isoformat(),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "results": json.loads(file.read_text(encoding="utf-8")),
    }
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(SCRIPTS))
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark")
    arguments = parser.parse_args()
    for script in arguments.scripts or SCRIPTS:
        measure(script, arguments.rounds)
    write_pages()
    # matplotlib is part of the group bench only, and the tests use this module, too.
    import pictures

    pictures.draw_all()


if __name__ == "__main__":
    main()
