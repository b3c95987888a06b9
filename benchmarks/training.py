"""What it costs to train in a worker process: against the same training in a plain
loop, and for who asks meanwhile.

    uv run --group bench python benchmarks/training.py [--epochs 20] [--rounds 11]
    [--json FILE]

Both loops take turns in one run, after a warm-up, and end with the same weights, which
is checked. Each has a fresh process, the plain loop too, as one that has trained before
trains faster. Timed is from the end of the first epoch to that of the last: each start
of a worker costs the import of scikit-learn once, which is told apart. The status
figures are of one client that asks every 5 ms, in a run of their own.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import harness

os.environ["OMP_NUM_THREADS"] = "1"  # as in the worker; before numpy is imported

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "templates" / "training"))

from app import Checkpoint, serve, train


def plain_loop(epochs: int) -> Iterator[list[np.ndarray]]:
    """The training as a script would write it: nothing saved, nobody asks, Ctrl-C loses
    all.
    """
    from sklearn.datasets import load_digits
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils import shuffle

    x, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    x = x / 16
    model = MLPClassifier(
        64,
        solver="sgd",
        momentum=0,
        learning_rate_init=0.1,
        shuffle=False,
        random_state=0,
    )
    model.partial_fit(x[-1:], y[-1:], classes=range(10))
    for epoch in range(epochs):
        order = np.random.default_rng([0, epoch]).permutation(range(360, len(y)))
        for rows in np.array_split(order, -(-len(order) // 32)):
            model.batch_size = len(rows)
            model.partial_fit(x[rows], y[rows])
        log_loss(y[360:], model.predict_proba(x[360:]))
        model.score(x[:360], y[:360])
        yield model.coefs_ + model.intercepts_


def timed(epochs: int) -> tuple[float, list[np.ndarray]]:
    """Return the seconds of all epochs but the first, and the weights."""
    ends = [(time.perf_counter(), weights) for weights in plain_loop(epochs)]
    return ends[-1][0] - ends[0][0], ends[-1][1]


def plain(epochs: int) -> tuple[float, list[np.ndarray]]:
    """Return what `timed` does in a process of its own, in which nothing else runs."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(timed, epochs).result()


async def worker(epochs: int, path: Path) -> tuple[float, float, list[np.ndarray]]:
    """Return the seconds until the worker was up, those of all epochs but the first,
    and the weights.
    """
    begin, ends, last = time.perf_counter(), [], Checkpoint()
    async with aclosing(train(last, epochs, path)) as run:
        async for checkpoint in run:
            ends.append(time.perf_counter())
            last = checkpoint
    return ends[0] - begin, ends[-1] - ends[1], list(last.weights)


async def ask(epochs: int, path: Path) -> list[float]:
    """Return how long each answer to `GET /status` took while a worker trained."""
    status: dict[str, object] = {"state": "training"}
    times: list[float] = []

    async def client(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                begin = time.perf_counter()
                async with session.get(f"{url}/status") as response:
                    await response.read()
                times.append(time.perf_counter() - begin)
                await asyncio.sleep(0.005)

    async with (
        serve(status, 0) as url,
        aclosing(train(Checkpoint(), epochs, path)) as run,
    ):
        asking: asyncio.Task[None] | None = None
        async for last in run:
            status.update(epoch=len(last.history))
            asking = asking or asyncio.create_task(client(url))
        assert asking
        asking.cancel()
        await asyncio.wait([asking])
    return times


def main() -> None:
    parser = harness.parser(__doc__, rounds=11)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    plains, workers, starts = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            seconds, weights = plain(options.epochs)
            start, ours, same = asyncio.run(
                worker(options.epochs, Path(folder) / f"{turn}.npz")
            )
            assert all(map(np.array_equal, weights, same)), (
                "the two did not train the same"
            )
            if turn:  # the first was the warm-up
                plains.append(seconds)
                workers.append(ours)
                starts.append(start)
        times = asyncio.run(ask(options.epochs, Path(folder) / "asked.npz"))

    ratios = [ours / seconds for ours, seconds in zip(workers, plains, strict=True)]
    percent = quantiles(times, n=100)
    results = {
        "plain_s": median(plains),
        "worker_s": median(workers),
        "ratio": median(ratios),
        "ratio_of_best": min(workers)
        / min(plains),  # the least disturbed of each, for a busy machine
        "start_s": median(starts),
        "status_p50_ms": 1000 * percent[49],
        "status_p99_ms": 1000 * percent[98],
        "status_answers": len(times),
    }
    table = Table(title=f"{options.epochs} epochs, median of {options.rounds} rounds")
    for column in ("figure", "measured", "limit"):
        table.add_column(column, justify="right")
    limits = {"ratio": "1.05", "status_p99_ms": "50"}
    for name, value in results.items():
        table.add_row(name, f"{value:.3f}", limits.get(name, ""))
    Console().print(table)
    harness.keep(results, options.json)


if __name__ == "__main__":
    main()
