"""Mocks where the event loop meets processes, threads and disks, by example."""

import asyncio
import errno
import os
import struct
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from unittest.mock import ANY, MagicMock, call, create_autospec

import pytest
from pytest_mock import MockerFixture

import training.app as app
import training.trainer as trainer
from training.checkpoint import Checkpoint, load, save
from training.trainer import Settings, Worker, train

Make = Callable[..., Checkpoint]
ONE_EPOCH = Settings(epochs=1)


@pytest.fixture
def make_worker(make_checkpoint: Make) -> MagicMock:
    """Makes a worker that trains one epoch, as a mock."""
    make_worker: MagicMock = create_autospec(Worker)
    # 1. A list as side_effect: each call returns its next item, or raises it.
    worker = make_worker.return_value
    worker.receive.side_effect = [make_checkpoint([]), make_checkpoint([0.25])]
    return make_worker


async def train_to_the_end(path: Path, make_worker: MagicMock) -> list[Checkpoint]:
    """Return all checkpoints of a training of one epoch."""
    return [
        checkpoint async for checkpoint in train(ONE_EPOCH, None, path, make_worker)
    ]


# 2. The autospec of a class is called like the class. Its return_value is the instance.
@pytest.mark.asyncio
async def test_the_worker_is_made_with_the_settings_and_the_start(
    path: Path, make_worker: MagicMock
) -> None:
    checkpoints = await train_to_the_end(path, make_worker)
    assert [len(checkpoint.history) for checkpoint in checkpoints] == [0, 1]
    make_worker.assert_called_once_with(ONE_EPOCH, None)
    assert make_worker.return_value.receive.call_count == 2


def test_an_autospec_refuses_arguments_that_the_class_does_not_have(
    make_worker: MagicMock,
) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'path'"):
        make_worker(ONE_EPOCH, None, path="model.npz")


# 3. The order of calls of several methods is in the mock_calls of their parent.
@pytest.mark.asyncio
async def test_a_worker_that_dies_is_closed(path: Path, make_worker: MagicMock) -> None:
    worker = make_worker.return_value
    worker.receive.side_effect = ChildProcessError("the worker died: exit code 3")
    with pytest.raises(ChildProcessError, match="exit code 3"):
        await train_to_the_end(path, make_worker)
    assert worker.mock_calls == [
        call.start(),
        call.receive(),
        call.kill(),
        call.close(),
    ]


# 4. An errno fills a disk: patch the one function that would report it.
@pytest.mark.asyncio
async def test_a_full_disk_ends_the_training_and_leaves_the_last_checkpoint(
    path: Path, make_worker: MagicMock, make_checkpoint: Make, mocker: MockerFixture
) -> None:
    await asyncio.to_thread(save, path, make_checkpoint([1.0, 0.5]))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync = mocker.patch.object(os, "fsync", autospec=True, side_effect=full)
    with pytest.raises(OSError, match="No space left"):
        await train_to_the_end(path, make_worker)
    fsync.assert_called_once()
    saved = await asyncio.to_thread(load, path)
    assert len(saved.history) == 2
    make_worker.return_value.kill.assert_called_once_with()


# 5. A spy lets the real function run, and records its calls and results.
@pytest.mark.asyncio
async def test_each_checkpoint_is_saved_once(
    path: Path, make_worker: MagicMock, mocker: MockerFixture
) -> None:
    save_spy = mocker.spy(trainer, "save")
    checkpoints = await train_to_the_end(path, make_worker)
    assert save_spy.call_args_list == [
        call(path, checkpoint) for checkpoint in checkpoints
    ]


# 6. A side_effect that waits makes a thread as slow as the test likes. It waits for a
# threading.Event, since an asyncio.Event belongs to the event loop.
@pytest.mark.asyncio
async def test_a_cancellation_waits_for_a_slow_disk(
    path: Path, make_worker: MagicMock, mocker: MockerFixture
) -> None:
    saving = threading.Event()
    disk = threading.Event()

    def save_slowly(_path: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.history:
            saving.set()
            disk.wait(5)

    mocker.patch.object(trainer, "save", autospec=True, side_effect=save_slowly)
    task = asyncio.create_task(train_to_the_end(path, make_worker))
    await asyncio.to_thread(saving.wait, 5)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0)
    assert not done
    disk.set()
    with pytest.raises(asyncio.CancelledError):
        await task


# 7. An async generator: __aiter__ says what it yields, and aclose is an AsyncMock.
@pytest.mark.asyncio
async def test_the_program_closes_the_generator_that_it_reads(
    path: Path,
    make_checkpoint: Make,
    mocker: MockerFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoints = create_autospec(AsyncGenerator, instance=True)
    checkpoints.__aiter__.return_value = [make_checkpoint([0.25])]
    train_mock = mocker.patch.object(
        app, "train", autospec=True, return_value=checkpoints
    )
    assert await app.main(epochs=1, checkpoint=path) == 0
    train_mock.assert_called_once_with(ONE_EPOCH, None, path)
    checkpoints.aclose.assert_awaited_once_with()
    assert "epoch   1/1  loss 0.1250" in capsys.readouterr().out


# 8. An async context manager: __aexit__ is awaited with the error that ends the block.
@pytest.mark.asyncio
async def test_the_server_is_closed_when_the_training_fails(
    path: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    server = MagicMock(AbstractAsyncContextManager)
    server.__aenter__.return_value = "http://127.0.0.1:1"
    server.__aexit__.return_value = None  # a true value would suppress the error
    checkpoints = create_autospec(AsyncGenerator, instance=True)
    checkpoints.__aiter__.side_effect = ChildProcessError("the worker died")
    mocker.patch.object(app, "serve", autospec=True, return_value=server)
    mocker.patch.object(app, "train", autospec=True, return_value=checkpoints)
    assert await app.main(checkpoint=path) == 1
    server.__aexit__.assert_awaited_once_with(ChildProcessError, ANY, ANY)
    assert capsys.readouterr().err == "the worker died\n"


# 9. Only the process is a mock; the pipe is real. So what a dying process leaves in it
# can be written by the test.
@pytest.mark.parametrize("rest", [b"", struct.pack("!i", 1000) + b"half a message"])
def test_a_worker_that_dies_in_the_middle_of_a_message_is_reported(
    mocker: MockerFixture, rest: bytes
) -> None:
    process = create_autospec(SpawnProcess, instance=True, pid=1, exitcode=-9)
    context = mocker.patch.object(trainer, "get_context", autospec=True)
    context.return_value.Process.return_value = process
    worker = Worker(ONE_EPOCH, None)

    def write_and_die() -> None:
        pipe, _, _ = context.return_value.Process.call_args.kwargs["args"]
        os.write(pipe.fileno(), rest)

    process.start.side_effect = write_and_die
    worker.start()
    with pytest.raises(ChildProcessError, match=r"^the worker died: exit code -9$"):
        worker.receive()
    worker.close()
    process.join.assert_called_with()
    process.close.assert_called_once_with()


# 10. Called is not awaited: only assert_awaited notices a forgotten await.
@pytest.mark.asyncio
async def test_a_call_without_await_does_not_close_a_generator() -> None:
    checkpoints = create_autospec(AsyncGenerator, instance=True)
    closing = checkpoints.aclose()
    checkpoints.aclose.assert_called_once_with()
    checkpoints.aclose.assert_not_awaited()
    await closing
    checkpoints.aclose.assert_awaited_once_with()
