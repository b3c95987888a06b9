"""Measure the load of a CSV file with 200,000 rows, against pandas and sqlite-utils.

    uv run --group bench python benchmarks/etl.py

Each contestant loads the same file into a new SQLite file:

- straight: a script that reads with csv.DictReader, validates with the same model and
  writes batches of 1,000 rows with sqlite3's executemany, in this process.
- starter: the starter with its defaults, in this process and as a process.
- pandas: `read_csv` and `to_sql`, as a process, without validation.
- sqlite-utils: `sqlite-utils insert --csv`, as a process, without validation.

Also measures the memory for 1,000,000 rows. A contestant that is not installed is
skipped.
"""

import argparse
import asyncio
import csv
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from etl.app import main
from etl.sales import Sale

TEMPLATES = sys.path[0]
UPSERT = """INSERT INTO sales VALUES (:id, :item, :day, :cents) ON CONFLICT (id) DO
UPDATE
    SET item = excluded.item, day = excluded.day, cents = excluded.cents"""


def write_csv(path: Path, rows: int) -> None:
    """Write sales to a file. One row in a thousand is invalid."""
    with path.open("w") as file:
        file.write("id,item,day,cents\n")
        for n in range(1, rows + 1):
            file.write(
                f"{n},tea number {n % 100},2026-05-{n % 28 + 1:02d},{n if n % 1000 else 'free'}\n"  # noqa: E501
            )


def straight(source: Path, folder: Path) -> None:
    """Load the sales like a simple script."""
    with (
        closing(sqlite3.connect(folder / "straight.db")) as db,
        source.open(newline="") as file,
    ):
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(
            "CREATE TABLE sales (id INTEGER PRIMARY KEY, item TEXT, day TEXT, cents INTEGER)"  # noqa: E501
        )
        rows, rejects = [], 0
        for raw in csv.DictReader(file):
            try:
                sale = Sale.model_validate(raw)
            except ValidationError:
                rejects += 1
                continue
            rows.append({**vars(sale), "day": sale.day.isoformat()})
            if len(rows) == 1000:
                db.executemany(UPSERT, rows)
                db.commit()
                rows.clear()
        db.executemany(UPSERT, rows)
        db.commit()


def starter(source: Path, folder: Path) -> None:
    """Load the sales with the starter."""
    url = f"sqlite:///{(folder / 'starter.db').as_posix()}"
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        assert (
            asyncio.run(
                main(str(source), database_url=url, rejects=folder / "rejects.ndjson")
            )
            == 0
        )


# --- Programs

STARTER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import cyclopts
from etl.app import main
app = cyclopts.App(result_action="return_value")
app.default(main)
command, bound, _ = app.parse_args(sys.argv[2:])
if command is main:
    sys.exit(asyncio.run(command(*bound.args, **bound.kwargs)))
command(*bound.args, **bound.kwargs)
"""
PANDAS = """
import sys
import pandas, sqlalchemy
engine = sqlalchemy.create_engine("sqlite:///pandas.db")
pandas.read_csv(sys.argv[1]).to_sql("sales", engine, index=False)
"""


def contestants(source: str) -> dict[str, list[str]]:
    """Return the command of each program that is installed here."""
    commands = {"starter": [sys.executable, "-c", STARTER, TEMPLATES, source]}
    if find_spec("pandas") is None:
        harness.skip("pandas", "it is not installed")
    else:
        commands["pandas"] = [sys.executable, "-c", PANDAS, source]
    sqlite_utils = shutil.which("sqlite-utils")
    if sqlite_utils is None:
        harness.skip("sqlite-utils", "it is not installed")
    else:
        arguments = ["insert", "sqlite-utils.db", "sales", source, "--csv"]
        commands["sqlite_utils"] = [sqlite_utils, *arguments]
    return commands


def process_seconds(command: list[str]) -> float:
    """Return the time of a program that runs in a new folder."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


def measure_programs(source: str, rounds: int) -> dict[str, float]:
    """Return the time of each program, and its ratio to that of the starter."""
    ways = {
        name: partial(process_seconds, command)
        for name, command in contestants(source).items()
    }
    start = [sys.executable, "-c", STARTER, TEMPLATES]
    ways["help"] = partial(process_seconds, [*start, "--help"])
    ways["empty"] = partial(process_seconds, [*start, os.devnull])
    times = harness.in_turns(rounds, ways)
    figures = {f"{name}_s": statistics.median(all_) for name, all_ in times.items()}
    if "pandas" in times:
        figures["pandas_ratio"] = figures["starter_s"] / figures["pandas_s"]
    if "sqlite_utils" in times:
        figures["sqlite_utils_ratio"] = figures["sqlite_utils_s"] / figures["starter_s"]
    return figures


def seconds(load: Callable[[Path, Path], None], source: Path) -> float:
    """Return the time of a load into a new database."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        load(source, Path(folder))
        return time.perf_counter() - start


def growth(source: Path) -> None:
    """Print by how many MB a load raises the peak memory of this process."""
    before = peak()
    with TemporaryDirectory() as folder:
        starter(source, Path(folder))
    print(peak() - before)


def peak() -> float:
    """Return the peak memory of this process in MB.

    getrusage would include the peak of the parent process.
    """
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


def measure(rounds: int) -> dict[str, float]:
    """Return all figures."""
    with TemporaryDirectory() as folder:
        source = Path(folder, "sales.csv")
        write_csv(source, 200_000)
        for load in (straight, starter):
            seconds(load, source)  # warm up
        times = [
            (seconds(straight, source), seconds(starter, source)) for _ in range(rounds)
        ]
        programs = measure_programs(str(source), max(1, rounds // 3))
        write_csv(source, 1_000_000)
        grown = subprocess.run(
            [sys.executable, __file__, "--growth", source],
            stdout=subprocess.PIPE,
            check=True,
        )
    return {
        "straight_rows_s": 200_000 / statistics.median(script for script, _ in times),
        "starter_rows_s": 200_000 / statistics.median(ours for _, ours in times),
        "throughput_ratio": statistics.median(script / ours for script, ours in times),
        "growth_mb_1m_rows": float(grown.stdout),
        **programs,
    }


if __name__ == "__main__":
    parser = harness.parser(__doc__, rounds=11)
    parser.add_argument("--growth", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth:
        growth(options.growth)
        sys.exit()
    figures = measure(options.rounds)
    print(f"straight script   {figures['straight_rows_s']:>10,.0f} rows/s")
    print(f"etl starter       {figures['starter_rows_s']:>10,.0f} rows/s")
    print(f"ratio             {figures['throughput_ratio']:>10.2f}   (wanted: >= 0.6)")
    print(
        f"memory, 1M rows   {figures['growth_mb_1m_rows']:>+10.1f} MB (wanted: <= 80)"
    )
    for name in ("starter", "pandas", "sqlite_utils", "help", "empty"):
        if f"{name}_s" in figures:
            print(f"process: {name:<13}{figures[f'{name}_s']:>6.2f} s")
    if "pandas_ratio" in figures:
        print(f"time / pandas     {figures['pandas_ratio']:>10.2f}   (wanted: <= 1.3)")
    if "sqlite_utils_ratio" in figures:
        print(
            f"sqlite-utils / us {figures['sqlite_utils_ratio']:>10.2f}   (wanted: >= 5)"
        )
    harness.keep(figures, options.json)
