"""Train a classifier of handwritten digits in a worker process: watch it, stop it,
resume it.

The event loop never computes and never waits for a disk. For a model of your own,
change `fit`."""

import asyncio
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe, connection, context, process, resource_tracker
from pathlib import Path

import numpy as np
from aiohttp import web
from cyclopts.types import Port, PositiveInt, UInt32
from rich.console import Console
from rich.progress import Progress


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a training stands: all that it needs to go on as if it had never
    stopped.
    """

    seed: int = 0
    batch: int = 32
    history: Sequence[
        tuple[float, float]
    ] = ()  # each epoch's loss, and accuracy (0 to 1)
    weights: Sequence[np.ndarray] = ()

    def save(self, path: Path) -> None:
        """Write to `path`, all or nothing, and draw the loss beside it; or raise
        OSError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            ".part", path.name, path.parent
        ) as ours:  # no other run's
            with (part := Path(ours, path.name)).open("wb", buffering=0) as to:
                np.savez(
                    to,
                    *self.weights,
                    seed=self.seed,
                    batch=self.batch,
                    history=self.history,
                )
                os.fsync(
                    to.fileno()
                )  # or a power cut may leave the new name without its data
            part.replace(path)
        path.with_name(f"{path.name}.svg").write_text(
            draw([loss for loss, _ in self.history])
        )

    def resume(self, path: Path) -> "Checkpoint":
        """Return the checkpoint in `path`, or this one if there is none there; or raise
        OSError.

        What is damaged, or no checkpoint, is moved aside first, so that nothing
        overwrites it."""
        if not path.exists():
            return self
        if not path.is_file():  # a folder or a device is not to be moved either
            raise FileExistsError(f"{path} is not a file")
        data = io.BytesIO(path.read_bytes())
        try:
            arrays = dict(np.load(data, allow_pickle=False))
            seed, batch = int(arrays.pop("seed")), int(arrays.pop("batch"))
            history = [
                (float(loss), float(right)) for loss, right in arrays.pop("history")
            ]
            weights = (
                [arrays[f"arr_{n}"] for n in range(max(1, len(arrays)))]
                if history
                else []
            )
        except (
            Exception
        ) as error:  # a damaged file makes its readers raise nearly anything
            aside = path.rename(f"{path}.refused-{os.urandom(4).hex()}")
            raise FileExistsError(
                f"{path} is no sound checkpoint: kept as {aside}"
            ) from error
        if (seed, batch) != (self.seed, self.batch):
            raise FileExistsError(
                f"{path} goes with --seed {seed} --batch-size {batch}"
            )
        return Checkpoint(seed, batch, history, weights)


def draw(losses: Sequence[float]) -> str:
    """Return the loss curve as an SVG."""
    width, top = 500 / max(1, len(losses) - 1), max(losses, default=1.0)
    dots = " ".join(
        f"{n * width:.1f},{300 - 300 * y / top:.1f}" for n, y in enumerate(losses)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="-60 -30 600 360" font-family="Sans">
<path d="M-60,-30h600v360h-600z" fill="#fff"/><path d="M0,0v300h500" fill="none" stroke="#000"/>
<polyline points="{dots}" fill="none" stroke="#36c" stroke-width="3"/><text x="-45">{top:.2f}</text>
<text x="-20" y="300">0</text><text x="190" y="320">loss, epochs 1 to {len(losses)}</text></svg>"""  # noqa: E501


def fit(pipe: connection.Connection, start: Checkpoint, epochs: int) -> None:
    """Be the worker: send `start` when ready, then each epoch's checkpoint, the same
    every time.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # first: what only a worker imports takes seconds
    from sklearn import datasets, metrics, neural_network, utils  # type: ignore[import-untyped]

    x, y = utils.shuffle(*datasets.load_digits(return_X_y=True), random_state=0)
    x = x / 16  # of grey; the first 360 digits are held out
    # No momentum, a constant rate, an order of our own: the weights are all the state
    # there is.
    model = neural_network.MLPClassifier(
        64, solver="sgd", momentum=0, learning_rate_init=0.1
    )
    model.set_params(random_state=start.seed, shuffle=False, batch_size=1)
    model.partial_fit(x[-1:], y[-1:], classes=range(10))  # makes the weights
    fresh = model.coefs_ + model.intercepts_
    if start.history and [*map(np.shape, start.weights)] != [*map(np.shape, fresh)]:
        sys.exit("the weights in the checkpoint are of another model")
    list(map(np.copyto, fresh, start.weights))  # if it has any yet
    with suppress(BrokenPipeError):  # the parent has died: nobody wants the rest
        pipe.send(start)
        for epoch in range(len(start.history), epochs):
            order = np.random.default_rng([start.seed, epoch]).permutation(
                range(360, len(y))
            )
            for rows in np.array_split(
                order, -(-len(order) // (start.batch or len(order)))
            ):
                model.batch_size = len(rows)
                model.partial_fit(x[rows], y[rows])
            loss = metrics.log_loss(y[360:], model.predict_proba(x[360:]))
            history = [*start.history, (loss, model.score(x[:360], y[:360]))]
            start = replace(
                start, history=history, weights=model.coefs_ + model.intercepts_
            )
            pipe.send(start)


async def train(  # noqa: C901
    start: Checkpoint,
    epochs: int,
    path: Path,
    by: type[process.BaseProcess] = context.SpawnProcess,
) -> AsyncGenerator[Checkpoint, None]:
    """Train in a worker process: yield `start` when it is up, then each checkpoint once
    saved.

    A cancellation waits for the epoch in hand, and saves it, but not for a worker that
    is not up.
    Raises ChildProcessError if the worker dies, or another OSError if starting or
    saving fails."""
    if len(start.history) >= epochs:
        return
    pipe, theirs = Pipe(duplex=False)
    worker, last = by(target=fit, args=(theirs, start, epochs)), start

    def pull() -> Checkpoint | None:
        if worker.pid is None:
            os.environ.setdefault(
                "OMP_NUM_THREADS", "1"
            )  # more are slower on such small arrays
            if (
                sys.platform != "win32"
            ):  # Ctrl-C hits the worker too, but it inherits this mask
                resource_tracker.ensure_running()
                signal.pthread_sigmask(
                    signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM)
                )
            worker.start()
            # Only the worker has it now: its death is the end of the file.
            theirs.close()
        checkpoint: Checkpoint | None = None
        with suppress(
            EOFError, OSError
        ):  # it died, perhaps in the middle of a checkpoint
            checkpoint = pipe.recv()
        checkpoint.save(path) if checkpoint else worker.join()
        return checkpoint

    try:
        while len(last.history) < epochs:
            pulling = asyncio.get_running_loop().run_in_executor(None, pull)
            await asyncio.wait([pulling])  # cancelled, it leaves the thread at its work
            if (checkpoint := pulling.result()) is None:
                raise ChildProcessError(f"the worker died: exit code {worker.exitcode}")
            yield (last := checkpoint)
    finally:
        while (
            not pulling.done()
        ):  # the epoch in hand; or the worker is not up, if started at all
            if last is start and worker.pid:
                worker.kill()
            await asyncio.wait([pulling], timeout=0.1)
        if worker.pid:  # else it could not even be started
            if len(last.history) < epochs:
                worker.kill()
            await asyncio.to_thread(worker.join)
        done = len((pulling.result() or last).history)
        logging.getLogger(__name__).info(
            "%d of %d epochs are in %s", done, epochs, path
        )


@asynccontextmanager
async def serve(status: Mapping[str, object], port: int) -> AsyncIterator[str]:
    """Answer `GET /status` and `GET /healthz`, on the loopback interface only; yield
    the URL.
    """

    async def show(_request: web.Request) -> web.Response:
        return web.json_response(status)

    (app := web.Application()).add_routes(
        [web.get("/status", show), web.get("/healthz", show)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def main(
    *,
    epochs: PositiveInt = 20,
    batch_size: UInt32 = 32,
    seed: UInt32 = 0,
    checkpoint: Path = Path("digits.npz"),
    status_port: Port = 0,
) -> int:
    """Train a classifier of handwritten digits; if you stop it, the next run goes on
    from there.

    Args:
        epochs: Passes over the training digits, those of earlier runs included.
        batch_size: Digits in a step; 0 is all at once.
        seed: Where all randomness comes from.
        checkpoint: File to save to and go on from; its loss curve has the same name and
        .svg.
        status_port: Port for /status and /healthz, on loopback only; 0 is any free
        one."""
    news: dict[str, object] = {"state": "starting", "epochs": epochs}
    try:
        now = await asyncio.to_thread(Checkpoint(seed, batch_size).resume, checkpoint)
        async with (
            serve(news, status_port) as url,
            aclosing(train(now, epochs, checkpoint)) as run,
        ):
            print(f"status: {url}/status")
            with Progress(
                console=Console(stderr=True), disable=not sys.stderr.isatty()
            ) as bar:
                task = bar.add_task("epochs", total=epochs)
                async for now in run:
                    done, news["state"] = len(now.history), "training"
                    for loss, accuracy in now.history[-1:]:
                        news.update(epoch=done, loss=loss, accuracy=accuracy)
                        print(
                            f"epoch {done:3}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}"  # noqa: E501
                        )
                    bar.update(task, completed=done)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"accuracy {now.history[-1][1]:.4f} on held-out digits; model and curve: {checkpoint}"  # noqa: E501
    )
    return 0
