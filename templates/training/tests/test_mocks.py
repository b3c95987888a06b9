"""Mocks where the loop meets processes, threads and disks: what works, what only seems
to.
"""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import ANY, MagicMock, call, create_autospec

import pytest
from pytest_mock import MockerFixture

from training.app import Checkpoint, main, serve, train

DONE = Checkpoint(history=[(0.25, 0.75)])


@pytest.fixture
def by() -> MagicMock:
    """A class of processes that are none: they send a finished training and end."""
    by: MagicMock = create_autospec(BaseProcess)
    by.return_value.configure_mock(pid=None, exitcode=None)

    # 1. What a mock was called with is the way to play the other side.
    def start() -> None:
        pipe, start, _ = by.call_args.kwargs["args"]
        by.return_value.pid = 1
        pipe.send(start)
        pipe.send(DONE)

    by.return_value.start.side_effect = start
    return by


# 2. The autospec of a class is called like the class; its return_value is the one
# instance.
@pytest.mark.asyncio
async def test_the_worker_is_made_once_and_told_where_to_start(
    path: Path, by: MagicMock
) -> None:
    start = Checkpoint(seed=7)
    seen = [checkpoint.history async for checkpoint in train(start, 1, path, by)]
    assert seen == [(), [(0.25, 0.75)]]
    by.assert_called_once_with(target=ANY, args=(ANY, start, 1))
    by.return_value.start.assert_called_once_with()


def test_an_autospecced_class_refuses_a_misspelt_argument(by: MagicMock) -> None:
    with pytest.raises(TypeError, match="targt"):
        by(targt=print)


# 3. Order across methods: the parent of them all has every call in its mock_calls. A
# side_effect
#    can change the mock, as the real method would change the real object.
@pytest.mark.asyncio
async def test_a_dead_worker_is_joined_before_its_exit_code_is_told(
    path: Path, by: MagicMock
) -> None:
    worker = by.return_value
    worker.start.side_effect = partial(worker.configure_mock, pid=1)
    worker.join.side_effect = partial(worker.configure_mock, exitcode=3)
    with pytest.raises(ChildProcessError, match="exit code 3"):
        _ = [checkpoint async for checkpoint in train(Checkpoint(), 1, path, by)]
    assert worker.mock_calls == [call.start(), call.join(), call.kill(), call.join()]


# 4. An errno is enough to fill a disk: patch the one function that would meet it.
@pytest.mark.asyncio
async def test_a_full_disk_is_told_and_the_last_checkpoint_stays(
    path: Path, by: MagicMock, mocker: MockerFixture
) -> None:
    await asyncio.to_thread(Checkpoint(seed=3).save, path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync = mocker.patch.object(os, "fsync", autospec=True, side_effect=full)
    with pytest.raises(OSError, match="No space left"):
        _ = [checkpoint async for checkpoint in train(Checkpoint(), 1, path, by)]
    fsync.assert_called_once()
    assert (await asyncio.to_thread(Checkpoint(seed=3).resume, path)).seed == 3
    by.return_value.kill.assert_called_with()


# 5. A spy lets the real code run, and records self too: here, in which state it was
# saved.
@pytest.mark.asyncio
async def test_each_checkpoint_is_saved_before_it_is_seen(
    path: Path, by: MagicMock, mocker: MockerFixture
) -> None:
    save = mocker.spy(Checkpoint, "save")
    async for checkpoint in train(Checkpoint(), 1, path, by):
        assert save.call_args == call(checkpoint, path)
    assert save.call_count == 2


# 6. A side_effect that waits makes a thread slow for as long as the test likes. It must
# be a
#    threading.Event: an asyncio.Event would belong to the loop.
@pytest.mark.asyncio
async def test_a_cancellation_waits_for_a_slow_disk(
    path: Path, by: MagicMock, mocker: MockerFixture
) -> None:
    saving, disk = threading.Event(), threading.Event()

    def slow(self: Checkpoint, path: Path) -> None:
        if self.history:
            saving.set()
            disk.wait(5)

    mocker.patch.object(Checkpoint, "save", autospec=True, side_effect=slow)

    async def watch() -> None:
        async for _ in train(Checkpoint(), 1, path, by):
            pass

    watching = asyncio.create_task(watch())
    await asyncio.to_thread(saving.wait, 5)
    watching.cancel()
    assert await asyncio.wait([watching], timeout=0) == (set(), {watching})
    disk.set()
    with pytest.raises(asyncio.CancelledError):
        await watching


# 7. An async generator: __aiter__ says what it yields, and its aclose is an AsyncMock.
@pytest.mark.asyncio
async def test_the_program_closes_the_generator_that_it_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create_autospec(AsyncGenerator, instance=True)
    run.__aiter__.return_value = [DONE]
    training = create_autospec(train, return_value=run)
    monkeypatch.setitem(main.__globals__, "train", training)
    assert await main(epochs=1, checkpoint=path) == 0
    training.assert_called_once_with(ANY, 1, path)
    run.aclose.assert_awaited_once_with()
    assert "epoch   1/1  loss 0.2500  accuracy 0.7500" in capsys.readouterr().out


# 8. An async context manager: __aexit__ is awaited with the error that ends the body.
@pytest.mark.asyncio
async def test_the_server_is_closed_when_the_training_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = MagicMock(AbstractAsyncContextManager)
    inside.__aenter__.return_value = "http://here"
    inside.__aexit__.return_value = None  # a true value would swallow the error
    run = create_autospec(AsyncGenerator, instance=True)
    run.__aiter__.side_effect = ChildProcessError("the worker died: exit code -9")
    monkeypatch.setitem(
        main.__globals__, "serve", create_autospec(serve, return_value=inside)
    )
    monkeypatch.setitem(
        main.__globals__, "train", create_autospec(train, return_value=run)
    )
    assert await main(checkpoint=path) == 1
    inside.__aexit__.assert_awaited_once_with(ChildProcessError, ANY, ANY)
    assert capsys.readouterr() == (
        "status: http://here/status\n",
        "the worker died: exit code -9\n",
    )


# 9. The environment is a dict: patched as one, it comes back as it was.
@pytest.mark.parametrize(
    ("given", "used"), [({}, "1"), ({"OMP_NUM_THREADS": "4"}, "4")]
)
@pytest.mark.asyncio
async def test_the_worker_gets_one_thread_unless_told_otherwise(
    path: Path, by: MagicMock, mocker: MockerFixture, given: dict[str, str], used: str
) -> None:
    mocker.patch.dict(os.environ)
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.update(given)
    _ = [checkpoint async for checkpoint in train(Checkpoint(), 1, path, by)]
    assert os.environ["OMP_NUM_THREADS"] == used


# 10. Called is not awaited: only assert_awaited sees a forgotten await.
@pytest.mark.asyncio
async def test_a_call_alone_closes_nothing() -> None:
    run = create_autospec(AsyncGenerator, instance=True)
    closing = run.aclose()
    run.aclose.assert_called_once_with()
    run.aclose.assert_not_awaited()
    await closing
    run.aclose.assert_awaited_once_with()
