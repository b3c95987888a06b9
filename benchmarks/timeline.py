"""Draw docs/timeline.svg: the same twelve requests of `api_client`, one after the other
and six at a time.

    uv run --group bench python benchmarks/timeline.py

A real run against a local API whose answers take from 60 to 180 ms. Each bar is one
`get_cat_fact`.
"""

import asyncio
import json
import logging
import math
import sys
import time
from pathlib import Path

import aiohttp
import matplotlib.pyplot as plt
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from api_client.app import fetch_data
from api_client.client import CatFact, Fact

TEMPLATE = Path(__file__).resolve().parents[1]
DELAYS = (
    120,
    80,
    180,
    60,
    160,
    120,
    60,
    160,
    60,
    140,
    60,
    60,
)  # of the answers, in milliseconds
WAYS = {"one after the other": 1, "six at a time": 6}
Bars = list[tuple[float, float]]


class Timed(CatFact):  # type: ignore[misc]
    """The client, with a look at its watch before and after."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        super().__init__(session, base_url)
        self.bars: Bars = []

    async def get_cat_fact(self, deadline: float = math.inf) -> Fact:
        started = time.perf_counter()
        fact = await super().get_cat_fact(deadline)
        self.bars.append((started, time.perf_counter() - started))
        return fact


async def run(concurrency: int) -> Bars:
    """Ask for the facts; return when each request began, in seconds from the first, and
    how long it took.
    """
    delays = iter(DELAYS)

    async def fact(_request: web.Request) -> web.Response:
        await asyncio.sleep(next(delays) / 1000)
        return web.json_response({"fact": "Cats purr.", "length": 10})

    app = web.Application()
    app.router.add_get("/fact", fact)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
        async with aiohttp.ClientSession() as session:
            client = Timed(session, site.name)
            facts, errors = await fetch_data(
                client, len(DELAYS), concurrency=concurrency
            )
    finally:
        await runner.cleanup()
    assert len(facts) == len(DELAYS), errors
    begin = min(started for started, _ in client.bars)
    return sorted((started - begin, took) for started, took in client.bars)


def main() -> None:
    logging.disable()
    runs = {name: asyncio.run(run(concurrency)) for name, concurrency in WAYS.items()}
    plt.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 4), layout="constrained")
    for ax, (name, bars) in zip(axes, runs.items(), strict=True):
        for row, bar in enumerate(bars):
            ax.broken_barh([bar], (row, 0.8), color="tab:blue")
        end = max(start + took for start, took in bars)
        ax.axvline(end, color="tab:red", linewidth=1)
        ax.set(title=f"{name}: {end:.2f} s", ylabel="request", yticks=[])
        ax.invert_yaxis()
    axes[-1].set(xlabel="seconds")
    figure.savefig(TEMPLATE / "docs" / "timeline.svg", metadata={"Date": None})
    print(
        json.dumps(
            {
                name: max(start + took for start, took in bars)
                for name, bars in runs.items()
            }
        )
    )


if __name__ == "__main__":
    main()
