"""Training in a worker process, so that the event loop never computes.

A thread is not enough: Python code in it slows the event loop down, and a thread cannot
be stopped.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe, get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from .checkpoint import Checkpoint, save
from .curve import save_history
from .data import load_data

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is trained, and how long.

    `data` is a CSV file with the classes in the column `label`, or None for the digits.
    With a `batch_size` of 0, each step uses all rows. `patience` is the number of
    epochs without a lower validation loss after which training ends; 0 is no limit.
    """

    epochs: int
    patience: int = 0
    batch_size: int = 32
    seed: int = 0
    data: Path | None = None
    label: str = "label"


# --- In the worker process


def run_worker(pipe: Connection, settings: Settings, start: Checkpoint | None) -> None:
    """Be the worker process: train, and send checkpoints until all is done."""
    # Ctrl-C reaches every process of the terminal. The program decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send_checkpoints(pipe, settings, start)


def send_checkpoints(
    pipe: Connection, settings: Settings, start: Checkpoint | None
) -> None:
    """Send the first checkpoint when ready to train, then one after each epoch.

    An expected failure, such as a data file with an error, is sent as an exception.
    Ends if the program no longer reads, for example because it was killed.
    """
    # Importing scikit-learn takes a second or more, so only the worker does it.
    from .model import start_training, train_epochs

    try:
        # More threads make such a small model slower.
        with threadpool_limits(limits=1):
            data = load_data(settings.data, settings.label)
            if start is None:
                start = start_training(data, settings.seed, settings.batch_size)
            for checkpoint in train_epochs(
                start, data, settings.epochs, settings.patience
            ):
                pipe.send(checkpoint)
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        pipe.send(error)


# --- In the program


class Worker:
    """A process that trains. All methods but `kill` block: call them in a thread."""

    def __init__(self, settings: Settings, start: Checkpoint | None) -> None:
        self._reader, self._writer = Pipe(duplex=False)
        # Not "fork": it would copy locks that the threads of this process hold.
        self._process = get_context("spawn").Process(
            target=run_worker, args=(self._writer, settings, start)
        )

    def start(self) -> None:
        """Start the process. Raises OSError if the system cannot."""
        try:
            with blocked_signals():
                self._process.start()
        finally:
            # From now on only the process can write, so its end ends the pipe too.
            self._writer.close()

    def receive(self) -> Checkpoint:
        """Return the next checkpoint.

        Raises what the worker raised, or ChildProcessError if it has died.
        """
        try:
            message: Checkpoint | Exception = self._reader.recv()
        except (EOFError, OSError):
            # It died, possibly in the middle of a message.
            self._process.join()
            code = self._process.exitcode
            raise ChildProcessError(f"the worker died: exit code {code}") from None
        if isinstance(message, Exception):
            raise message
        return message

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self._process.pid is not None:
            self._process.kill()

    def close(self) -> None:
        """Wait until the process has ended, and free its resources."""
        if self._process.pid is not None:
            self._process.join()
            self._process.close()
        self._reader.close()


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in this thread, and in processes that it starts.

    A worker could not handle them yet while it starts and imports its modules.
    """
    if sys.platform == "win32":
        yield
        return
    # This helper process of Python starts with the first worker, and unblocks signals.
    resource_tracker.ensure_running()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def train(
    settings: Settings,
    start: Checkpoint | None,
    path: Path,
    make_worker: Callable[[Settings, Checkpoint | None], Worker] = Worker,
) -> AsyncGenerator[Checkpoint, None]:
    """Train in a worker; save each checkpoint to `path`, then yield it.

    `start` is where an earlier training stopped. The first checkpoint is yielded when
    the worker is ready to train. Cancelled before that, `train` kills the worker;
    later, it waits for the current epoch and saves it. Raises ChildProcessError if the
    worker dies, ValueError if the data or the checkpoint do not fit, and OSError if the
    worker cannot be started or a file cannot be written.
    """
    worker = make_worker(settings, start)
    saved = start

    def receive_and_save() -> Checkpoint:
        nonlocal saved
        checkpoint = worker.receive()
        save(path, checkpoint)
        saved = checkpoint
        save_history(path, checkpoint)
        return checkpoint

    try:
        await finish(worker.start)
        checkpoint = await first_checkpoint(worker)
        if start is None:
            # A place that cannot be written to is noticed before the first epoch.
            await finish(partial(save, path, checkpoint))
        yield checkpoint
        while not checkpoint.is_finished(settings.epochs, settings.patience):
            checkpoint = await finish(receive_and_save)
            yield checkpoint
    finally:
        worker.kill()
        await finish(worker.close)
        if saved is not None:
            epochs = len(saved.history)
            log.info("%d of %d epochs are in %s", epochs, settings.epochs, path)


async def first_checkpoint(worker: Worker) -> Checkpoint:
    """Return the checkpoint that says that the worker is ready to train.

    A cancellation kills the worker.
    """
    receiving = asyncio.ensure_future(asyncio.to_thread(worker.receive))
    try:
        # Unlike `await receiving`, this does not cancel it when it is cancelled.
        await asyncio.wait([receiving])
    except asyncio.CancelledError:
        worker.kill()
        await asyncio.gather(receiving, return_exceptions=True)
        raise
    return receiving.result()


async def finish(function: Callable[[], T]) -> T:
    """Return what `function` returns in a thread.

    A cancellation is raised when the function has returned. If the function fails, its
    exception is raised instead.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        # Unlike `await call`, this does not cancel the call when it is cancelled.
        await asyncio.wait([call])
    except asyncio.CancelledError:
        await asyncio.wait([call])
        call.result()
        raise
    return call.result()
