"""What a load costs: against a straight synchronous script, and in memory.

    uv run --group bench python benchmarks/etl.py [--rounds 11] [--json FILE]

The script reads with csv.DictReader, validates with the same model and writes batches
of 1,000 rows with sqlite3's executemany; the starter has its defaults. Both fill a new
SQLite file in WAL mode. Rounds alternate, medians count.
"""

import argparse
import asyncio
import csv
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates" / "etl"))

from app import Sale, main

UPSERT = """INSERT INTO sales VALUES (:id, :item, :day, :cents) ON CONFLICT (id) DO
UPDATE
    SET item = excluded.item, day = excluded.day, cents = excluded.cents"""


def write_csv(path: Path, rows: int) -> None:
    """Write sales; one in a thousand is bad."""
    with path.open("w") as file:
        file.write("id,item,day,cents\n")
        for n in range(1, rows + 1):
            file.write(
                f"{n},tea number {n % 100},2026-05-{n % 28 + 1:02d},{n if n % 1000 else 'free'}\n"  # noqa: E501
            )


def straight(source: Path, folder: Path) -> None:
    """Load the sales as a script would."""
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
    url = f"sqlite+aiosqlite:///{(folder / 'starter.db').as_posix()}"
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        assert (
            asyncio.run(
                main(str(source), database_url=url, rejects=folder / "rejects.ndjson")
            )
            == 0
        )


def seconds(load: Callable[[Path, Path], None], source: Path) -> float:
    """Time a load into a new database."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        load(source, Path(folder))
        return time.perf_counter() - start


def growth(source: Path) -> None:
    """Print how many MB a load of `source` adds to the memory that the program has at
    its start.
    """
    before = peak()
    with TemporaryDirectory() as folder:
        starter(source, Path(folder))
    print(peak() - before)


def peak() -> float:
    """Return the most memory that this process has had, in MB; getrusage would count
    its parent's too.
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
    harness.keep(figures, options.json)
