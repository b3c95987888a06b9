"""Draw the pictures of docs/figures.md from the results in docs/figures.

    uv run --group bench python benchmarks/pictures.py

There is one picture for each starter, with the time of the starter beside the time of
each other tool, and docs/growth.svg. benchmarks/report.py draws them after it has
measured.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import TEMPLATE

DOCS = TEMPLATE / "docs"
OUR_COLOUR = "#0a7d6c"
OTHER_COLOUR = "#b5bcc4"
BAR_HEIGHT = 0.28  # inches
AXES_HEIGHT = 0.75  # inches: a panel without its bars


@dataclass(frozen=True)
class Bar:
    """One bar: the time of a contestant.

    `path` leads to the time in the results of the benchmark. Times in a list are
    rounds; the bar shows their median. If `is_rate`, the results have a number per
    second instead. `scale` converts seconds to the panel's unit.
    """

    label: str
    path: tuple[str, ...]
    scale: float = 1.0
    is_rate: bool = False

    def value(self, results: Any) -> float | None:
        """Return the time, or None if this contestant was not measured."""
        found = results
        for key in self.path:
            found = found.get(key)
            if found is None:
                return None
        if isinstance(found, list):
            found = statistics.median(found)
        if self.is_rate:
            return self.scale / float(found)
        return self.scale * float(found)


@dataclass(frozen=True)
class Panel:
    """Contestants that did the same work."""

    title: str
    unit: str
    bars: list[Bar]


def downloads_panel(work: str) -> Panel:
    """Return the panel of one kind of downloads."""
    tools = ["downloads", "aria2c", "wget", "curl"]
    bars = [Bar(tool, (f"{work} from nginx, {tool}, s",)) for tool in tools]
    return Panel(f"{work} from nginx, whole process", "s", bars)


def tasks_bar(label: str, contestant: str) -> Bar:
    """Return the bar for a task's time in ms, from the tasks per second of `jobs`."""
    return Bar(label, ("tasks_per_s", contestant), scale=1e3, is_rate=True)


PICTURES = {
    "api_client": [
        Panel(
            "2,000 requests to an API that needs 1 s for them",
            "s",
            [
                Bar("api_client", ("seconds", "api_client")),
                Bar("bare aiohttp", ("seconds", "aiohttp, bare")),
                Bar("httpx2", ("seconds", "httpx2")),
                Bar("httpx", ("seconds", "httpx")),
            ],
        )
    ],
    "api_server": [
        Panel(
            "GET, CPU time per request",
            "ms",
            [
                Bar("api_server", ("get_starter_us",), scale=1e-3),
                Bar("shortest FastAPI + SQLAlchemy", ("get_bare_us",), scale=1e-3),
            ],
        ),
        Panel(
            "POST of a booking, CPU time per request",
            "ms",
            [
                Bar("api_server", ("book_starter_us",), scale=1e-3),
                Bar("shortest FastAPI + SQLAlchemy", ("book_bare_us",), scale=1e-3),
            ],
        ),
    ],
    "downloads": [downloads_panel("4 x 100 MB"), downloads_panel("1,000 x 10 kB")],
    "database": [
        Panel(
            "10,000 rows in one batch",
            "ms",
            [
                Bar("database", ("batch", "ledger_s"), scale=1e3),
                Bar("sqlite3 executemany", ("batch", "other_s"), scale=1e3),
            ],
        ),
        Panel(
            "1,000 concurrent commits",
            "s",
            [
                Bar("database", ("commits", "ledger_s")),
                Bar("SQLAlchemy's defaults", ("commits", "other_s")),
            ],
        ),
    ],
    "etl": [
        Panel(
            "200,000 CSV rows into SQLite, whole process",
            "s",
            [
                Bar("etl (validates each row)", ("starter_s",)),
                Bar("pandas", ("pandas_s",)),
                Bar("sqlite-utils", ("sqlite_utils_s",)),
            ],
        )
    ],
    "media": [
        Panel(
            "24 thumbnails",
            "s",
            [
                Bar("media", ("seconds", "thumbnails")),
                Bar("vipsthumbnail, two at a time", ("seconds", "vipsthumbnail")),
                Bar("pyvips, one process", ("seconds", "pyvips, one process")),
                Bar("Pillow, one process", ("seconds", "Pillow, one process")),
            ],
        ),
        Panel(
            "Thumbnails, edges and QR codes; mogrify makes thumbnails only",
            "s",
            [
                Bar("media", ("seconds", "everything")),
                Bar("mogrify, two at a time", ("seconds", "mogrify")),
            ],
        ),
    ],
    "training": [
        Panel(
            "20 epochs",
            "s",
            [
                Bar("training, in its worker", ("worker_s",)),
                Bar("the same in a plain loop", ("plain_s",)),
            ],
        )
    ],
    "chat": [
        Panel(
            "500 clients, CPU time per delivered message",
            "µs",
            [
                Bar("chat", ("room_us",)),
                Bar("bare aiohttp broadcast", ("bare_us",)),
            ],
        )
    ],
    "jobs": [
        Panel(
            "A small task, one worker",
            "ms",
            [
                tasks_bar("jobs over NATS", "NATS, 1 worker"),
                tasks_bar("jobs over Redis", "Redis, 1 worker"),
                tasks_bar("arq (Redis)", "arq, 1 worker"),
                tasks_bar("Celery (Redis)", "celery, 1 worker"),
            ],
        )
    ],
}


def results_of(script: str) -> Any:
    """Return what a benchmark measured last."""
    text = (DOCS / "figures" / f"{script}.json").read_text(encoding="utf-8")
    return json.loads(text)["results"]


def label(value: float, unit: str) -> str:
    """Return a time with three digits, such as "0.614 s" or "12.6 ms"."""
    if value >= 100:
        return f"{value:.0f} {unit}"
    if value >= 10:
        return f"{value:.1f} {unit}"
    if value >= 1:
        return f"{value:.2f} {unit}"
    return f"{value:.3f} {unit}"


def draw_panel(axes: Any, panel: Panel, starter: str) -> None:
    """Draw the bars of a panel. Those that begin with the starter's name are ours."""
    results = results_of(starter)
    labels: list[str] = []
    values: list[float] = []
    colours: list[str] = []
    for bar in panel.bars:
        value = bar.value(results)
        if value is None:
            continue
        labels.append(bar.label)
        values.append(value)
        if bar.label.startswith(starter):
            colours.append(OUR_COLOUR)
        else:
            colours.append(OTHER_COLOUR)
    drawn = axes.barh(labels, values, color=colours, height=0.7)
    axes.bar_label(drawn, [label(value, panel.unit) for value in values], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.2)
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def draw_starter(starter: str) -> None:
    """Draw docs/figures/<starter>.svg: the starter's time beside each other tool's."""
    import matplotlib.pyplot as plt

    panels = PICTURES[starter]
    heights = [AXES_HEIGHT + BAR_HEIGHT * len(panel.bars) for panel in panels]
    figure, grid = plt.subplots(
        len(panels),
        1,
        figsize=(7.5, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for row, panel in zip(grid, panels, strict=True):
        draw_panel(row[0], panel, starter)
    save(figure, DOCS / "figures" / f"{starter}.svg")


def draw_growth() -> None:
    """Draw docs/growth.svg: how time and memory grow with the work."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    growth = results_of("growth")
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 4.4), layout="constrained"
    )
    for starter, measured in growth["starters"].items():
        left.plot(growth["times"], measured["seconds"], marker="o", label=starter)
        middle.plot(growth["times"], measured["memory_mb"], marker="o", label=starter)
    for axes in (left, middle):
        axes.set(xscale="log", xticks=growth["times"], xlabel="times the work")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    left.set(yscale="log", title="seconds")
    lines, names = left.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    middle.set(title="peak of memory, MB", ylim=0)
    starters = range(1, len(growth["render_s"]) + 1)
    milliseconds = [1000 * seconds for seconds in growth["render_s"]]
    right.plot(starters, milliseconds, marker="o")
    right.set(title="a render, ms", xlabel="starters in the template")
    right.set_ylim(0, 1.1 * max(milliseconds))
    save(figure, DOCS / "growth.svg")


def save(figure: Any, path: Path) -> None:
    """Write a picture. The same figures give the same bytes."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = path.stem
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_all() -> None:
    """Draw all pictures."""
    for starter in PICTURES:
        draw_starter(starter)
    draw_growth()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    draw_all()


if __name__ == "__main__":
    main()
