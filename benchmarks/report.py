"""Run the benchmarks, and write what they found into docs/: figures as JSON, charts as
SVG, and the README's table.

    uv run --group bench python benchmarks/report.py            # all of them: give it a
    quiet machine and an hour
    uv run --group bench python benchmarks/report.py render etl # these, and everything
    else as it was

Each script's results are docs/figures/<script>.json, with the machine, the date and the
versions they were made with.
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

from tools import TEMPLATE, put_into_readme

FIGURES = TEMPLATE / "docs" / "figures"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
PACKAGES = """
    aiohttp aiosqlite cookiecutter httpx httpx2 numpy obstore pillow pydantic pytest
    pytest-asyncio scikit-learn
    soundfile sqlalchemy taskiq uv
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
        "a template of one file, no hook",
        ("ratios", "async-template"),
        "<=",
        1.25,
    ),
    Bar(
        "render",
        "the same of as many one-word files",
        "that one file",
        ("ratios", "as many files"),
    ),
    Bar(
        "first_green",
        "render to first green suite",
        "`uv init` and one test",
        ("ratio",),
        "<=",
        2.0,
    ),
    Bar(
        "first_green",
        "tests in that suite",
        "`uv init` and one test",
        ("more_tests",),
        ">=",
        10,
    ),
    Bar(
        "guards",
        "guards, CPU a test",
        "plain pytest-asyncio",
        ("cost_cpu_ms",),
        "<=",
        2,
        " ms",
    ),
    Bar("suite", "the template's own tests", "2 cores", ("minutes",), "<=", 8, " min"),
    Bar(
        "api_client",
        "`api_client`: 2,000 requests",
        "the API's own time",
        ("ratios", "api_client"),
        "<=",
        1.10,
    ),
    Bar("api_client", "the same by httpx2", "the API's own time", ("ratios", "httpx2")),
    Bar("api_client", "the same by httpx", "the API's own time", ("ratios", "httpx")),
    Bar(
        "downloads",
        "`downloads`: 100 MB, speed",
        "a bare read to nowhere",
        ("speed of bare (>= 0.6)",),
        ">=",
        0.6,
    ),
    Bar(
        "downloads",
        "the same",
        "one with its read buffer",
        ("speed of bare with its buffer",),
    ),
    Bar(
        "downloads",
        "the same by a bare read that writes",
        "that",
        ("speed of bare, written to the disk",),
    ),
    Bar(
        "downloads",
        "1,000 files of 10 kB, speed",
        "one at a time",
        ("times faster (>= 10)",),
        ">=",
        10,
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
        "`database`: 10,000 rows",
        "sqlite3 executemany",
        ("batch", "ratio"),
        "<=",
        3,
    ),
    Bar(
        "database",
        "1,000 commits at once, speed",
        "SQLAlchemy's defaults",
        ("commits", "ratio"),
        ">=",
        5,
    ),
    Bar(
        "etl",
        "`etl`: 200,000 rows, speed",
        "a straight script",
        ("throughput_ratio",),
        ">=",
        0.6,
    ),
    Bar(
        "etl",
        "1,000,000 rows, memory above the start",
        "-",
        ("growth_mb_1m_rows",),
        "<=",
        80,
        " MB",
    ),
    Bar("media", "`media`: 2 workers, speed", "one process", ("ratio",), ">=", 1.6),
    Bar("media", "lag of the loop, p99", "-", ("lag_ms", "p99"), "<=", 50, " ms"),
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
        "`chat`: 500 clients, CPU a message",
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
        "jobs",
        "`jobs`: 2 workers over NATS, speed",
        "one worker",
        ("two_over_one",),
        ">=",
        1.6,
    ),
    Bar(
        "jobs",
        "a task in memory",
        "a bare TaskGroup",
        ("overhead_ms", "in memory"),
        unit=" ms",
    ),
    Bar(
        "jobs",
        "a task over NATS",
        "a bare TaskGroup",
        ("overhead_ms", "NATS, 1 worker"),
        unit=" ms",
    ),
    Bar(
        "jobs",
        "10,000 tasks, memory above the start",
        "-",
        ("growth_mb_10k_tasks",),
        unit=" MB",
    ),
]
SCRIPTS = [*dict.fromkeys(bar.script for bar in BARS), "growth"]


def table() -> str:
    """Return the README's table of what was measured."""
    rows = ["| figure | measured against | to reach | measured |", "|---|---|---|---|"]
    for bar in BARS:
        value = bar.value()
        if value is None:
            continue
        wanted = f"{bar.holds} {bar.limit:g}{bar.unit}" if bar.holds else "-"
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        measured = f"{value:.{digits}f}{bar.unit}"
        rows.append(
            f"| {bar.figure} | {bar.against} | {wanted} | {measured if bar.reached() else f'**{measured}**'} |"  # noqa: E501
        )
    return "\n".join(rows) + "\n"


def measure(script: str) -> None:
    """Run a benchmark, and keep its results."""
    file = FIGURES / f"{script}.json"
    FIGURES.mkdir(parents=True, exist_ok=True)
    print(f"== {script}", flush=True)
    command = [
        sys.executable,
        str(TEMPLATE / "benchmarks" / f"{script}.py"),
        "--json",
        str(file),
    ]
    subprocess.run(command, check=True, cwd=TEMPLATE)
    told = {
        "command": f"uv run --group bench python benchmarks/{script}.py",
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
    """Draw docs/figures.svg (each figure's share of its bar) and docs/growth.svg."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    plt.rcParams["svg.fonttype"] = "none"
    bars = [bar for bar in BARS if bar.holds and bar.value() is not None]
    shares = [
        ((bar.value() or 0) / bar.limit) ** (1 if bar.holds == "<=" else -1)
        for bar in bars
    ]
    figure, ax = plt.subplots(figsize=(9, 0.34 * len(bars) + 1), layout="constrained")
    colors = ["tab:green" if bar.reached() else "tab:orange" for bar in bars]
    ax.barh([bar.figure.replace("`", "") for bar in bars], shares, color=colors)
    ax.axvline(1, color="black", linewidth=1)
    ax.invert_yaxis()
    ax.set(xlabel="share of the bar that is used: less is better, 1 is the bar")
    figure.savefig(TEMPLATE / "docs" / "figures.svg", metadata={"Date": None})

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
    for script in parser.parse_args().scripts or SCRIPTS:
        measure(script)
    chart()
    put_into_readme(BEGIN, table(), END)


if __name__ == "__main__":
    main()
