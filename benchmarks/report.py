"""Run the benchmarks, and write what they measured into docs/ and the README.

    uv run --group bench python benchmarks/report.py            # all of them
    uv run --group bench python benchmarks/report.py render etl # only these

All of them take about an hour on a quiet machine. The results of each script are in
docs/figures/<script>.json, with the machine, the date and the versions. docs/figures.md
shows all figures, and the README those that matter most.
"""

import argparse
import json
import operator
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import TEMPLATE, put_between

FIGURES = TEMPLATE / "docs" / "figures"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
PAGE = TEMPLATE / "docs" / "figures.md"
README = TEMPLATE / "README.md"
PACKAGES = """
    aiohttp aiosqlite cookiecutter fastapi httpx httpx2 nats-py numpy obstore
    opencv-python-headless pillow pydantic pytest pytest-asyncio pyvips redis
    scikit-learn soundfile sqlalchemy uv uvicorn
""".split()
HOLDS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Bar:
    """A figure, what it is measured against, and the bar it is to reach."""

    script: str
    figure: str
    against: str
    path: tuple[str, ...]
    holds: str = ""
    limit: float = 0.0
    unit: str = "x"

    def value(self) -> float | None:
        """Return what was measured last, or None if nothing was yet."""
        file = FIGURES / f"{self.script}.json"
        found: Any = (
            json.loads(file.read_text(encoding="utf-8"))["results"]
            if file.exists()
            else {}
        )
        for key in self.path:
            found = found.get(key, {})
        return float(found) if found != {} else None

    def reached(self) -> bool:
        """Return whether the bar is reached, or there is none."""
        value = self.value()
        return not self.holds or (
            value is not None and bool(HOLDS[self.holds](value, self.limit))
        )


BARS = [
    Bar(
        "render",
        "render, whole process",
        "a template of one file without hooks",
        ("ratios", "async-template"),
        "<=",
        1.45,
    ),
    Bar(
        "render",
        "the same for as many one-word files",
        "that one file",
        ("ratios", "as many files"),
    ),
    Bar(
        "first_green",
        "render to first green suite",
        "`uv init --package` and one test",
        ("ratio",),
        "<=",
        1.3,
    ),
    Bar("first_green", "tests in that suite", "one test", ("more_tests",)),
    Bar(
        "guards",
        "guards, CPU per test",
        "plain pytest-asyncio",
        ("cost_cpu_ms",),
        "<=",
        2,
        " ms",
    ),
    Bar(
        "guards",
        "the same with sockets and mocks",
        "plain pytest-asyncio",
        ("busy_cost_cpu_ms",),
        "<=",
        2,
        " ms",
    ),
    Bar("suite", "the template's own tests", "2 cores", ("minutes",), "<=", 12, " min"),
    Bar(
        "api_client",
        "`api_client`: 2,000 requests",
        "the API's own time",
        ("ratios", "api_client"),
        "<=",
        1.10,
    ),
    Bar(
        "api_client",
        "the same by bare aiohttp",
        "the API's own time",
        ("ratios", "aiohttp, bare"),
    ),
    Bar("api_client", "the same by httpx2", "the API's own time", ("ratios", "httpx2")),
    Bar(
        "api_server",
        "`api_server`: `GET`, CPU per request",
        "the shortest FastAPI and SQLAlchemy",
        ("get_ratio",),
        "<=",
        1.25,
    ),
    Bar(
        "api_server",
        "a booking, CPU per request",
        "the shortest FastAPI and SQLAlchemy",
        ("book_ratio",),
        "<=",
        1.25,
    ),
    Bar(
        "api_server",
        "500 requests in flight, p99",
        "-",
        ("500_in_flight_p99_ms",),
        unit=" ms",
    ),
    Bar(
        "api_server",
        "memory after 20,000 requests",
        "after 2,000",
        ("memory_growth_mb",),
        unit=" MB more",
    ),
    Bar(
        "downloads",
        "`downloads`: 4 files of 100 MB, time",
        "aria2c",
        ("4 x 100 MB from nginx, times aria2c's",),
        "<=",
        1,
    ),
    Bar(
        "downloads",
        "the same",
        "wget",
        ("4 x 100 MB from nginx, times wget's",),
        "<=",
        1.5,
    ),
    Bar(
        "downloads",
        "1,000 files of 10 kB, time",
        "aria2c",
        ("1,000 x 10 kB from nginx, times aria2c's",),
        "<=",
        1,
    ),
    Bar(
        "downloads",
        "the same",
        "wget",
        ("1,000 x 10 kB from nginx, times wget's",),
        "<=",
        2,
    ),
    Bar(
        "downloads",
        "20 files of 100 MB, memory",
        "-",
        ("peak MB, 20 x 100 MB",),
        "<=",
        150,
        " MB",
    ),
    Bar(
        "database",
        "`database`: 10,000 rows, time",
        "sqlite3 executemany",
        ("batch", "ratio"),
        "<=",
        3,
    ),
    Bar(
        "database",
        "1,000 concurrent commits, speed",
        "SQLAlchemy's defaults",
        ("commits", "ratio"),
        ">=",
        5,
    ),
    Bar("etl", "`etl`: 200,000 rows, time", "pandas", ("pandas_ratio",), "<=", 1.3),
    Bar("etl", "the same, speed", "sqlite-utils", ("sqlite_utils_ratio",), ">=", 5),
    Bar(
        "etl",
        "1,000,000 rows, memory above the start",
        "-",
        ("growth_mb_1m_rows",),
        "<=",
        80,
        " MB",
    ),
    Bar(
        "media",
        "`media`: thumbnails, time",
        "vipsthumbnail, two at a time",
        ("ratios", "thumbnails / vipsthumbnail"),
        "<=",
        1.3,
    ),
    Bar(
        "media",
        "thumbnails, edges and QR codes, time",
        "mogrify, two at a time",
        ("ratios", "everything / mogrify"),
        "<=",
        1,
    ),
    Bar("media", "lag of the loop, p99", "-", ("lag_ms", "p99"), "<=", 10, " ms"),
    Bar(
        "training",
        "`training`: 20 epochs, time",
        "the same in a plain loop",
        ("ratio",),
        "<=",
        1.05,
    ),
    Bar(
        "training",
        "`GET /status` meanwhile, p99",
        "-",
        ("status_p99_ms",),
        "<=",
        50,
        " ms",
    ),
    Bar(
        "chat",
        "`chat`: 500 clients, CPU per message",
        "a bare broadcast",
        ("ratio",),
        "<=",
        1.3,
    ),
    Bar(
        "chat",
        "50 stalled clients, time of the others",
        "none stalled",
        ("stalled_ratio",),
        "<=",
        1.3,
    ),
    Bar(
        "chat",
        "a model's token to a client, p99",
        "-",
        ("token_p99_ms",),
        "<=",
        20,
        " ms",
    ),
    Bar(
        "jobs",
        "`jobs`: 2,000 small tasks over Redis, time",
        "arq",
        ("time_ratios", "Redis over arq"),
        "<=",
        1,
    ),
    Bar("jobs", "the same", "Celery", ("time_ratios", "Redis over celery")),
    Bar(
        "jobs",
        "2 workers over NATS, speed",
        "one worker",
        ("two_over_one",),
        ">=",
        1.7,
    ),
]
# The figures in the README: each against a tool that people know.
README_FIGURES = [
    ("api_client", ("ratios", "api_client")),
    ("downloads", ("4 x 100 MB from nginx, times aria2c's",)),
    ("etl", ("pandas_ratio",)),
    ("media", ("ratios", "everything / mogrify")),
    ("jobs", ("time_ratios", "Redis over arq")),
]
SCRIPTS = [*dict.fromkeys(bar.script for bar in BARS), "growth"]


def table(bars: list[Bar]) -> str:
    """Return a table of figures. A figure that misses its goal is bold."""
    rows = ["| figure | measured against | goal | measured |", "|---|---|---|---|"]
    for bar in bars:
        value = bar.value()
        if value is None:
            continue
        goal = f"{bar.holds} {bar.limit:g}{bar.unit}" if bar.holds else "-"
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        measured = f"{value:.{digits}f}{bar.unit}"
        if not bar.reached():
            measured = f"**{measured}**"
        rows.append(f"| {bar.figure} | {bar.against} | {goal} | {measured} |")
    return "\n".join(rows) + "\n"


def readme_bars() -> list[Bar]:
    """Return the figures that the README shows."""
    return [bar for bar in BARS if (bar.script, bar.path) in README_FIGURES]


def measure(script: str, rounds: int | None) -> None:
    """Run a benchmark, and keep its results.

    `rounds` is passed to the benchmark; None leaves it at the benchmark's default.
    """
    file = FIGURES / f"{script}.json"
    FIGURES.mkdir(parents=True, exist_ok=True)
    print(f"== {script}", flush=True)
    command = [
        sys.executable,
        str(TEMPLATE / "benchmarks" / f"{script}.py"),
        "--json",
        str(file),
    ]
    options = [] if rounds is None else ["--rounds", str(rounds)]
    subprocess.run([*command, *options], check=True, cwd=TEMPLATE)
    told = {
        "command": " ".join(
            ["uv run --group bench python", f"benchmarks/{script}.py", *options]
        ),
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
    file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def chart() -> None:
    """Draw docs/growth.svg: how time and memory grow with the work."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    plt.rcParams["svg.fonttype"] = "none"
    growth = json.loads((FIGURES / "growth.json").read_text(encoding="utf-8"))[
        "results"
    ]
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 4), layout="constrained"
    )
    for starter, it in growth["starters"].items():
        left.plot(growth["times"], it["seconds"], marker="o", label=starter)
        middle.plot(growth["times"], it["memory_mb"], marker="o", label=starter)
    for ax in (left, middle):
        ax.set(xscale="log", xticks=growth["times"], xlabel="times the work")
        ax.xaxis.set_major_formatter(ScalarFormatter())
    left.set(yscale="log", title="seconds")
    left.legend(fontsize="small")
    middle.set(title="peak of memory, MB", ylim=0)
    right.plot(
        range(1, len(growth["render_s"]) + 1),
        [1000 * s for s in growth["render_s"]],
        marker="o",
    )
    right.set(title="a render, ms", xlabel="starters in the template", ylim=0)
    figure.savefig(TEMPLATE / "docs" / "growth.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(SCRIPTS))
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark")
    arguments = parser.parse_args()
    for script in arguments.scripts or SCRIPTS:
        measure(script, arguments.rounds)
    chart()
    put_between(PAGE, BEGIN, table(BARS), END)
    put_between(README, BEGIN, table(readme_bars()), END)


if __name__ == "__main__":
    main()
