"""Mocks by example: workers that die, hang or never start, without any process."""

import asyncio
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock, call, create_autospec

import cv2
import numpy as np
import pytest
import pyvips  # type: ignore[import-untyped]
from pytest_mock import MockerFixture

from media.app import convert_all, convert_one
from media.pictures import convert
from media.plan import PICTURE, Job, Settings
from media.report import Report, Result
from media.worker import (
    Connection,
    Worker,
    WorkerError,
    complete,
    read_message,
)

JOB = Job(PICTURE, Path("cat.png"), [Path("cat.webp")])
DONE = Result(JOB.source, JOB.outputs, {"width": 40})


@pytest.fixture
def worker() -> MagicMock:
    """A mock with the methods and signatures of a worker, and no process.

    An autospec knows which methods are coroutines: calls of those have to be awaited.
    """
    worker = create_autospec(Worker, instance=True, is_running=True)
    worker.convert.return_value = DONE
    return worker  # type: ignore[no-any-return]


@pytest.mark.asyncio
async def test_an_awaited_call_returns_the_return_value(worker: MagicMock) -> None:
    assert await convert_one(worker, JOB, timeout=5, attempts=1) == DONE
    worker.convert.assert_awaited_once_with(JOB)
    worker.start.assert_not_awaited()


@pytest.mark.asyncio
async def test_an_autospec_refuses_calls_that_the_original_would_refuse(
    worker: MagicMock,
) -> None:
    with pytest.raises(TypeError):
        await worker.convert()
    with pytest.raises(AttributeError):
        await worker.convrt(JOB)


@pytest.mark.asyncio
async def test_a_list_of_side_effects_is_used_call_by_call(worker: MagicMock) -> None:
    worker.convert.side_effect = [WorkerError("it died"), DONE]
    assert await convert_one(worker, JOB, timeout=5, attempts=2) == DONE
    assert worker.mock_calls == [call.convert(JOB), call.kill(), call.convert(JOB)]


@pytest.mark.asyncio
async def test_an_exception_as_side_effect_is_raised_each_time(
    worker: MagicMock,
) -> None:
    worker.convert.side_effect = WorkerError("it died")
    result = await convert_one(worker, JOB, timeout=5, attempts=3)
    assert result.error == "it died"
    assert worker.convert.await_count == 3


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_coroutine_as_side_effect_can_hang(worker: MagicMock) -> None:
    async def hang(_job: Job) -> Result:
        await asyncio.Event().wait()
        return DONE

    worker.convert.side_effect = hang
    result = await convert_one(worker, JOB, timeout=60, attempts=1)
    assert result.error == "not finished within 60 s"
    worker.kill.assert_awaited_once_with()


@pytest.mark.asyncio
async def test_aenter_and_aexit_of_a_mock_are_awaited(worker: MagicMock) -> None:
    # `async with` uses what __aenter__ returns: without this line, another mock.
    worker.__aenter__.return_value = worker
    # A true value would mean that the block's error has been handled.
    worker.__aexit__.return_value = None
    results: list[Result] = []
    await convert_all([JOB], lambda: worker, results.append, workers=1)
    assert results == [DONE]
    worker.__aenter__.assert_awaited_once_with()
    worker.__aexit__.assert_awaited_once_with(None, None, None)


@pytest.mark.asyncio
async def test_an_unexpected_error_reaches_aexit_and_the_caller(
    worker: MagicMock,
) -> None:
    worker.__aenter__.return_value = worker
    worker.__aexit__.return_value = None
    worker.convert.side_effect = ZeroDivisionError
    with pytest.raises(ExceptionGroup) as caught:
        await convert_all([JOB], lambda: worker, lambda _: None, workers=1)
    assert caught.group_contains(ZeroDivisionError)
    assert worker.__aexit__.await_args.args[0] is ZeroDivisionError


@pytest.fixture
def connection() -> Connection:
    """A connection of mocks: a process, and the streams to and from it."""
    return Connection(
        process=create_autospec(Process, instance=True),
        to_process=create_autospec(asyncio.StreamWriter, instance=True),
        from_process=create_autospec(asyncio.StreamReader, instance=True),
    )


@pytest.mark.asyncio
async def test_a_mock_of_a_stream_returns_line_after_line(
    connection: Connection, mocker: MockerFixture
) -> None:
    mocker.patch.object(
        connection.from_process, "readline", side_effect=[b'{"ready": true}\n', b""]
    )
    mocker.patch.object(connection.process, "wait", return_value=-9)
    assert await read_message(connection) == {"ready": True}
    with pytest.raises(WorkerError, match="SIGKILL"):
        await read_message(connection)


@pytest.mark.asyncio
async def test_a_call_of_a_coroutine_method_is_not_yet_awaited(
    worker: MagicMock,
) -> None:
    coroutine = worker.kill()
    worker.kill.assert_not_awaited()
    await complete(coroutine)
    worker.kill.assert_awaited_once_with()


@pytest.mark.asyncio
async def test_a_stub_records_the_calls_of_a_callback(
    worker: MagicMock, mocker: MockerFixture
) -> None:
    worker.__aenter__.return_value = worker
    worker.__aexit__.return_value = None
    on_result = mocker.stub("on_result")
    await convert_all([JOB, JOB], lambda: worker, on_result, workers=1)
    assert on_result.call_args_list == [call(DONE), call(DONE)]


def test_a_patched_method_is_restored_after_the_test(mocker: MockerFixture) -> None:
    add = mocker.patch.object(Report, "add", autospec=True)
    report = Report(as_json=False)
    report.add(DONE)
    add.assert_called_once_with(report, DONE)  # autospec passes `self`, too


def test_a_spy_calls_the_original_and_remembers(
    draw: Callable[..., Path], tmp_path: Path, mocker: MockerFixture
) -> None:
    spy = mocker.spy(cv2, "Canny")
    drafts = [tmp_path / "a.webp", tmp_path / "a.png"]
    convert(draw("cat.png"), drafts, Settings(size=40))
    spy.assert_called_once()
    assert spy.spy_return.shape == (30, 40)
    edges = pyvips.Image.new_from_file(str(drafts[1])).numpy()
    assert np.array_equal(edges, spy.spy_return)
