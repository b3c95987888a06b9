"""Measure training in a worker process, against the same training in a plain loop.

    uv run --group bench python benchmarks/training.py

Each run has a new process, and both sides must end with the same weights. The time is
that from the end of the first epoch to the end of the last one. The start of the
worker, which imports scikit-learn, is a figure of its own. A further run measures the
latency of the status server for a client that sends a request every 5 ms.
"""

import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import harness
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates"))

from training.data import Part, split
from training.status import Status, serve
from training.trainer import Settings, train

INTERVAL = 0.005  # seconds between two requests to the status server
LIMITS = {"ratio": "1.05", "status_p99_ms": "50"}

Weights = list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of all epochs but the first, and the weights after the last.

    `start_seconds` is the time until the worker was ready.
    """

    seconds: float
    weights: Weights
    start_seconds: float = 0.0


def plain_loop(epochs: int) -> Iterator[Weights]:
    """Train like a simple script, which saves nothing; yield the weights per epoch."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    digits = load_digits()
    parts = split(digits.target)
    training = parts == Part.TRAINING
    validation = parts == Part.VALIDATION
    test = parts == Part.TEST
    mean = digits.data[training].mean(axis=0)
    deviation = digits.data[training].std(axis=0)
    deviation[deviation == 0] = 1
    x = (digits.data - mean) / deviation
    y = digits.target
    model = MLPClassifier(
        64,
        solver="sgd",
        momentum=0,
        learning_rate_init=0.1,
        shuffle=False,
        batch_size=1,
        random_state=0,
    )
    model.partial_fit(np.zeros((1, 64)), [0], classes=range(10))
    best = math.inf
    with threadpool_limits(limits=1):
        for epoch in range(epochs):
            random = np.random.default_rng([0, epoch])
            rows = random.permutation(np.flatnonzero(training))
            for batch in np.array_split(rows, math.ceil(len(rows) / 32)):
                model.batch_size = len(batch)
                model.partial_fit(x[batch], y[batch])
            log_loss(y[training], model.predict_proba(x[training]))
            loss = log_loss(y[validation], model.predict_proba(x[validation]))
            model.score(x[validation], y[validation])
            if loss < best:
                best = loss
                model.score(x[test], y[test])
            yield model.coefs_ + model.intercepts_


def time_plain_loop(epochs: int) -> Result:
    """Measure the plain loop, in this process."""
    ends = []
    last: Weights = []
    for weights in plain_loop(epochs):
        ends.append(time.perf_counter())
        last = weights
    return Result(ends[-1] - ends[0], last)


def measure_plain_loop(epochs: int) -> Result:
    """Measure the plain loop in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(time_plain_loop, epochs).result()


async def measure_worker(epochs: int, path: Path) -> Result:
    """Measure the starter's worker."""
    begin = time.perf_counter()
    ends = []
    last: Weights = []
    async with aclosing(train(Settings(epochs), None, path)) as checkpoints:
        async for checkpoint in checkpoints:
            ends.append(time.perf_counter())
            last = checkpoint.weights
    return Result(ends[-1] - ends[1], last, start_seconds=ends[0] - begin)


async def measure_status(epochs: int, path: Path) -> list[float]:
    """Return the seconds that each `GET /status` took while a worker trained."""
    status = Status(epochs)
    times: list[float] = []

    async def send_requests(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                begin = time.perf_counter()
                async with session.get(f"{url}/status") as response:
                    await response.read()
                times.append(time.perf_counter() - begin)
                await asyncio.sleep(INTERVAL)

    async with (
        serve(status, 0) as url,
        aclosing(train(Settings(epochs), None, path)) as checkpoints,
    ):
        status.update(await anext(checkpoints))
        client = asyncio.create_task(send_requests(url))
        async for checkpoint in checkpoints:
            status.update(checkpoint)
        client.cancel()
        await asyncio.wait([client])
    return times


def main() -> None:
    parser = harness.parser(__doc__, rounds=11)
    parser.add_argument(
        "--epochs",
        type=int,
        default=20,
        metavar="N",
        help="Number of epochs; 20 by default.",
    )
    options = parser.parse_args()

    plain_results = []
    worker_results = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            path = Path(folder) / f"{turn}.npz"
            plain = measure_plain_loop(options.epochs)
            worker = asyncio.run(measure_worker(options.epochs, path))
            for expected, weights in zip(plain.weights, worker.weights, strict=True):
                assert np.array_equal(expected, weights), "not the same training"
            # The first turn is the warm-up.
            if turn > 0:
                plain_results.append(plain)
                worker_results.append(worker)
        times = asyncio.run(measure_status(options.epochs, Path(folder) / "status.npz"))

    plain_seconds = [result.seconds for result in plain_results]
    worker_seconds = [result.seconds for result in worker_results]
    ratios = [
        worker / plain
        for worker, plain in zip(worker_seconds, plain_seconds, strict=True)
    ]
    percentiles = quantiles(times, n=100)
    results = {
        "plain_s": median(plain_seconds),
        "worker_s": median(worker_seconds),
        "ratio": median(ratios),
        # The fastest run of each side: the figure to use on a busy machine.
        "ratio_of_best": min(worker_seconds) / min(plain_seconds),
        "start_s": median(result.start_seconds for result in worker_results),
        "status_p50_ms": 1000 * percentiles[49],
        "status_p99_ms": 1000 * percentiles[98],
        "status_answers": len(times),
    }
    table = Table(title=f"{options.epochs} epochs, median of {options.rounds} rounds")
    for column in ("figure", "measured", "limit"):
        table.add_column(column, justify="right")
    for name, value in results.items():
        table.add_row(name, f"{value:.3f}", LIMITS.get(name, ""))
    Console().print(table)
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
