"""Draw docs/timeline.svg: twelve requests of `api_client`, one and six at a time.

    uv run --group bench python benchmarks/timeline.py

Runs `api_client` against a local API that responds after 60 to 180 ms, first with one
request at a time and then with six. Each bar in the picture is one request.
"""

import asyncio
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import harness
import matplotlib.pyplot as plt
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from api_client.app import fetch_data
from api_client.client import CatFact, Fact

TEMPLATE = Path(__file__).resolve().parents[1]
# The delay of each response, in milliseconds.
DELAYS = [120, 80, 180, 60, 160, 120, 60, 160, 60, 140, 60, 60]
CONCURRENCY = {"one after the other": 1, "six at a time": 6}


@dataclass(order=True)
class Request:
    """The start and the duration of a request, in seconds."""

    start: float
    duration: float


class TimedClient(CatFact):  # type: ignore[misc] # mypy does not read the starters
    """The client of the starter, which also records the time of each request."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        super().__init__(session, base_url)
        self.requests: list[Request] = []

    async def get_cat_fact(self, deadline: float = math.inf) -> Fact:
        start = time.perf_counter()
        fact = await super().get_cat_fact(deadline)
        self.requests.append(Request(start, time.perf_counter() - start))
        return fact


async def run(concurrency: int) -> list[Request]:
    """Fetch the facts; return the requests. The first one starts at 0."""
    delays = iter(DELAYS)

    async def fact(_request: web.Request) -> web.Response:
        await asyncio.sleep(next(delays) / 1000)
        return web.json_response({"fact": "Cats purr.", "length": 10})

    app = web.Application()
    app.router.add_get("/fact", fact)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    try:
        await site.start()
        async with aiohttp.ClientSession() as session:
            client = TimedClient(session, site.name)
            count = len(DELAYS)
            facts, errors = await fetch_data(client, count, concurrency=concurrency)
    finally:
        await runner.cleanup()
    assert len(facts) == len(DELAYS), errors
    first = min(client.requests)
    begin = first.start
    for request in client.requests:
        request.start -= begin
    return sorted(client.requests)


def main() -> None:
    options = harness.parser(__doc__).parse_args()
    logging.disable()
    plt.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 4), layout="constrained")
    results = {}
    for ax, (name, concurrency) in zip(axes, CONCURRENCY.items(), strict=True):
        requests = asyncio.run(run(concurrency))
        for row, request in enumerate(requests):
            bar = (request.start, request.duration)
            ax.broken_barh([bar], (row, 0.8), color="tab:blue")
        end = max(request.start + request.duration for request in requests)
        ax.axvline(end, color="tab:red", linewidth=1)
        ax.set(title=f"{name}: {end:.2f} s", ylabel="request", yticks=[])
        ax.invert_yaxis()
        print(f"{name:>19}  {end:.2f} s")
        results[name] = end
    axes[-1].set(xlabel="seconds")
    figure.savefig(TEMPLATE / "docs" / "timeline.svg", metadata={"Date": None})
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
