"""The worker: stopped at any moment, a training loses nothing and leaves nothing."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from multiprocessing import Pipe, active_children
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from training.checkpoint import Checkpoint, encode, load
from training.data import load_data
from training.model import start_training, train_epochs
from training.trainer import (
    Settings,
    Worker,
    run_worker,
    train,
)

Make = Callable[..., Checkpoint]
MakeWorker = Callable[[Settings, Checkpoint | None], Worker]


def load_if_saved(path: Path) -> Checkpoint | None:
    """Return the checkpoint in a file, if there is one."""
    if path.exists():
        return load(path)
    return None


async def run(settings: Settings, path: Path, make_worker: MakeWorker) -> list[int]:
    """Train to the end from what is saved; return the numbers of the epochs seen."""
    start = await asyncio.to_thread(load_if_saved, path)
    return [
        len(checkpoint.history)
        async for checkpoint in train(settings, start, path, make_worker)
    ]


# --- The same result, whatever happens


@pytest.mark.asyncio
async def test_each_checkpoint_is_saved_before_it_is_seen(
    path: Path, settings: Settings, thread_worker: MakeWorker
) -> None:
    seen = []
    async for checkpoint in train(settings, None, path, thread_worker):
        saved = await asyncio.to_thread(load, path)
        assert encode(saved) == encode(checkpoint)
        seen.append(len(checkpoint.history))
    assert seen == [0, 1, 2, 3, 4, 5]
    names = sorted(await asyncio.to_thread(os.listdir, path.parent))
    assert names == ["model.npz", "model.npz.history.csv", "model.npz.svg"]


async def stop_at_once(settings: Settings, path: Path, make_worker: MakeWorker) -> None:
    """Cancel a training before its worker is ready."""
    task = asyncio.create_task(run(settings, path, make_worker))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def stop_in_an_epoch(
    settings: Settings, path: Path, make_worker: MakeWorker
) -> None:
    """Cancel a training that waits for its next epoch."""
    start = await asyncio.to_thread(load_if_saved, path)
    trained = asyncio.Event()

    async def watch() -> None:
        async with aclosing(train(settings, start, path, make_worker)) as checkpoints:
            await anext(checkpoints)
            await anext(checkpoints)
            trained.set()
            await anext(checkpoints)
            await asyncio.Event().wait()

    task = asyncio.create_task(watch())
    await trained.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def stop_reading(settings: Settings, path: Path, make_worker: MakeWorker) -> None:
    """Leave the loop over the checkpoints after one epoch."""
    start = await asyncio.to_thread(load_if_saved, path)
    async with aclosing(train(settings, start, path, make_worker)) as checkpoints:
        await anext(checkpoints)
        await anext(checkpoints)


async def kill_the_worker(
    settings: Settings, path: Path, make_worker: MakeWorker
) -> None:
    """Kill the worker after one epoch."""
    start = await asyncio.to_thread(load_if_saved, path)
    workers = []

    def make(settings: Settings, start: Checkpoint | None) -> Worker:
        workers.append(make_worker(settings, start))
        return workers[0]

    async with aclosing(train(settings, start, path, make)) as checkpoints:
        await anext(checkpoints)
        await anext(checkpoints)
        workers[0].kill()
        with pytest.raises(ChildProcessError, match="the worker died: exit code -9"):
            async for _ in checkpoints:
                pass


@pytest.mark.asyncio
async def test_a_training_stopped_16_times_ends_with_the_same_bytes(
    path: Path, settings: Settings, thread_worker: MakeWorker
) -> None:
    settings = replace(settings, epochs=40)
    for _ in range(4):
        await stop_at_once(settings, path, thread_worker)
        await stop_in_an_epoch(settings, path, thread_worker)
        await stop_reading(settings, path, thread_worker)
        await kill_the_worker(settings, path, thread_worker)
    seen = await run(settings, path, thread_worker)
    assert 12 <= seen[0] <= 24
    assert seen == list(range(seen[0], 41))

    def train_without_a_stop() -> Checkpoint:
        data = load_data(settings.data, settings.label)
        start = start_training(data, settings.seed, settings.batch_size)
        *_, last = train_epochs(start, data, settings.epochs, settings.patience)
        return last

    expected = await asyncio.to_thread(train_without_a_stop)
    assert await asyncio.to_thread(path.read_bytes) == encode(expected)


@pytest.mark.asyncio
async def test_a_finished_training_is_checked_but_not_continued(
    path: Path, settings: Settings, thread_worker: MakeWorker
) -> None:
    await run(settings, path, thread_worker)
    before = await asyncio.to_thread(path.read_bytes)
    assert await run(settings, path, thread_worker) == [5]
    assert await asyncio.to_thread(path.read_bytes) == before


# --- Stops


@pytest.mark.asyncio
async def test_a_cancellation_waits_for_the_current_epoch_and_saves_it(
    path: Path,
    settings: Settings,
    make_checkpoint: Make,
    fake_worker: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    worker = fake_worker()
    worker.messages.put(make_checkpoint([]))
    ready = asyncio.Event()

    async def watch() -> None:
        async with aclosing(
            train(settings, None, path, lambda *_: worker)
        ) as checkpoints:
            async for _ in checkpoints:
                ready.set()

    task = asyncio.create_task(watch())
    await ready.wait()
    await asyncio.to_thread(worker.receiving.wait, 5)
    task.cancel()
    await asyncio.sleep(0)
    assert worker.calls == ["start"]
    worker.messages.put(make_checkpoint([1.0]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert worker.calls == ["start", "kill", "close"]
    saved = await asyncio.to_thread(load, path)
    assert len(saved.history) == 1
    assert caplog.messages == [f"1 of 5 epochs are in {path}"]


@pytest.mark.asyncio
async def test_a_worker_that_is_not_ready_is_killed_at_once(
    path: Path, settings: Settings, fake_worker: Any
) -> None:
    worker = fake_worker()
    task = asyncio.create_task(run(settings, path, lambda *_: worker))
    await asyncio.to_thread(worker.receiving.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert worker.calls[:2] == ["start", "kill"]
    assert worker.calls[-1] == "close"
    assert await asyncio.to_thread(load_if_saved, path) is None


@pytest.mark.asyncio
async def test_a_training_can_be_cancelled_at_each_of_its_awaits(
    path: Path,
    settings: Settings,
    make_checkpoint: Make,
    fake_worker: Any,
    cancel_everywhere: Callable[..., Awaitable[int]],
) -> None:
    workers: list[Any] = []
    settings = replace(settings, epochs=2)

    async def train_two_epochs() -> None:
        worker = fake_worker()
        workers.append(worker)
        for losses in ([], [1.0], [1.0, 0.5]):
            worker.messages.put(make_checkpoint(losses))
        async with aclosing(
            train(settings, None, path, lambda *_: worker)
        ) as checkpoints:
            async for _ in checkpoints:
                pass

    def check() -> None:
        calls = workers[-1].calls
        assert not calls or calls[-1] == "close"

    assert await cancel_everywhere(train_two_epochs, check) >= 3


@pytest.mark.asyncio
async def test_a_file_that_cannot_be_written_ends_the_training(
    tmp_path: Path, settings: Settings, make_checkpoint: Make, fake_worker: Any
) -> None:
    (tmp_path / "file").touch()
    worker = fake_worker()
    worker.messages.put(make_checkpoint([]))
    with pytest.raises(FileExistsError):
        await run(settings, tmp_path / "file" / "model.npz", lambda *_: worker)
    assert worker.calls == ["start", "kill", "close"]


@pytest.mark.asyncio
async def test_a_failure_while_stopping_is_reported_instead_of_the_stop(
    path: Path, settings: Settings, make_checkpoint: Make, fake_worker: Any
) -> None:
    worker = fake_worker()
    worker.messages.put(make_checkpoint([]))
    ready = asyncio.Event()

    async def watch() -> None:
        async with aclosing(
            train(settings, None, path, lambda *_: worker)
        ) as checkpoints:
            async for _ in checkpoints:
                ready.set()

    task = asyncio.create_task(watch())
    await ready.wait()
    await asyncio.to_thread(worker.receiving.wait, 5)
    task.cancel()
    await asyncio.sleep(0)
    worker.messages.put(None)
    with pytest.raises(ChildProcessError, match="exit code -9"):
        await task


# --- Errors of the worker


@pytest.mark.asyncio
async def test_an_error_in_the_data_is_raised_in_the_program(
    path: Path, settings: Settings, tmp_path: Path, thread_worker: MakeWorker
) -> None:
    missing = replace(settings, data=tmp_path / "missing.csv")
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        await run(missing, path, thread_worker)
    no_label = replace(settings, label="colour")
    with pytest.raises(ValueError, match="has no column 'colour'"):
        await run(no_label, path, thread_worker)
    assert await asyncio.to_thread(load_if_saved, path) is None


@pytest.mark.asyncio
async def test_a_checkpoint_of_other_data_is_refused_and_kept(
    path: Path, settings: Settings, tmp_path: Path, thread_worker: MakeWorker
) -> None:
    await run(settings, path, thread_worker)
    before = await asyncio.to_thread(path.read_bytes)
    with pytest.raises(ValueError, match="other data"):
        await run(replace(settings, data=None), path, thread_worker)
    assert await asyncio.to_thread(path.read_bytes) == before


@pytest.mark.asyncio
async def test_a_worker_that_cannot_be_started_is_an_error(
    path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_process: SpawnProcess) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(OSError, match="Too many open files"):
        await run(settings, path, Worker)


def test_a_worker_whose_program_has_ended_ends_too(settings: Settings) -> None:
    handler = signal.getsignal(signal.SIGINT)
    pipe: tuple[Any, Any] = Pipe(duplex=False)
    reader, writer = pipe
    reader.close()
    try:
        run_worker(writer, settings, None)
        # In a real worker, which does not restore the handler.
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
        writer.close()


# --- Real processes, which take seconds to start


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_a_process_that_is_killed_is_an_error_and_leaves_what_it_trained(
    path: Path, settings: Settings, finished: Checkpoint, thread_worker: MakeWorker
) -> None:
    async with aclosing(
        train(replace(settings, epochs=1000), None, path)
    ) as checkpoints:
        await anext(checkpoints)
        await anext(checkpoints)
        [process] = active_children()
        process.kill()
        with pytest.raises(ChildProcessError, match=r"^the worker died: exit code -?9"):
            async for _ in checkpoints:
                pass
    assert active_children() == []
    saved = await asyncio.to_thread(load, path)
    assert len(saved.history) >= 1
    if len(saved.history) < settings.epochs:
        await run(settings, path, thread_worker)
        assert await asyncio.to_thread(path.read_bytes) == encode(finished)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_ctrl_c_which_reaches_the_process_too_does_not_disturb_it(
    path: Path, settings: Settings, finished: Checkpoint
) -> None:
    async for _ in train(settings, None, path):
        for process in active_children():
            assert process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
    assert await asyncio.to_thread(path.read_bytes) == encode(finished)


@pytest.mark.asyncio
async def test_a_program_that_stops_at_once_leaves_no_process(
    path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    start = SpawnProcess.start

    def start_and_report(process: SpawnProcess) -> None:
        start(process)
        loop.call_soon_threadsafe(started.set)

    monkeypatch.setattr(SpawnProcess, "start", start_and_report)
    task = asyncio.create_task(run(settings, path, Worker))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert active_children() == []
    assert await asyncio.to_thread(load_if_saved, path) is None


@pytest.mark.asyncio
async def test_signals_are_blocked_only_while_the_process_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no such signals")
    masks = []

    def start(_process: SpawnProcess) -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        raise OSError("not started")

    def mask_after() -> set[int | signal.Signals]:
        worker = Worker(settings, None)
        with suppress(OSError):
            worker.start()
        worker.close()
        return signal.pthread_sigmask(signal.SIG_BLOCK, [])

    monkeypatch.setattr(SpawnProcess, "start", start)
    after = await asyncio.to_thread(mask_after)
    assert masks[0] >= {signal.SIGINT, signal.SIGTERM}
    assert not after & {signal.SIGINT, signal.SIGTERM}
