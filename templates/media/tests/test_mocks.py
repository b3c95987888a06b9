"""Mocks by example: processes that die, hang or never start, made without any
process.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock, call, create_autospec

import pytest
from PIL import Image
from pytest_mock import MockerFixture

from media.app import (
    KINDS,
    convert,
    main,
    picture,
    work,
    worker,
)

JOB = (Path("cat.png"), [Path("cat.webp")], 40)


def answer(*result: object) -> "Future[object]":
    """Return what `submit` returns: a future, here one that has its result."""
    future: Future[object] = Future()
    future.set_result(result)
    return future


@pytest.fixture
def pool() -> MagicMock:
    """An executor with the methods and signatures of a real one, and nothing behind
    them.
    """
    return create_autospec(Executor, instance=True)  # type: ignore[no-any-return]


@pytest.fixture
def start(pool: MagicMock) -> MagicMock:
    """A mock of `worker`: an async context manager needs its `__aenter__` to say what
    it gives.
    """
    start = create_autospec(worker)
    start.return_value.__aenter__.return_value = pool
    start.return_value.__aexit__.return_value = (
        None  # a true value would swallow errors
    )
    return start  # type: ignore[no-any-return]


@pytest.mark.asyncio
async def test_autospec_checks_what_the_process_is_asked(
    pool: MagicMock, start: MagicMock, mocker: MockerFixture
) -> None:
    pool.submit.return_value = answer(True, "done")
    report = mocker.stub("report")
    await work(iter([JOB]), report, lambda: start(Path("scratch")), 5)
    pool.submit.assert_called_once_with(convert, JOB)
    report.assert_called_once_with(Path("cat.png"), True, "done")
    with pytest.raises(TypeError):
        start()  # the real one wants a folder, so the mock does too


@pytest.mark.asyncio
async def test_enter_and_exit_of_a_context_manager_are_awaited_not_just_called(
    pool: MagicMock, start: MagicMock, mocker: MockerFixture
) -> None:
    pool.submit.side_effect = [BrokenProcessPool("it died"), answer(True, "done")]
    await work(iter([JOB]), mocker.stub(), lambda: start(Path("scratch")), 5)
    assert start.return_value.__aenter__.await_count == 2
    assert start.return_value.__aexit__.await_count == 2


@pytest.mark.asyncio
async def test_a_list_of_side_effects_plays_a_story(
    pool: MagicMock, start: MagicMock, mocker: MockerFixture
) -> None:
    crash = BrokenProcessPool("it died")
    pool.submit.side_effect = [
        crash,
        crash,
        answer(False, "broken"),
        answer(True, "done"),
    ]
    report = mocker.stub()
    await work(iter([JOB] * 3), report, lambda: start(Path("scratch")), 5)
    assert report.call_args_list == [
        call(Path("cat.png"), False, "it died"),
        call(Path("cat.png"), False, "broken"),
        call(Path("cat.png"), True, "done"),
    ]


@pytest.mark.asyncio
async def test_an_error_that_nobody_expects_comes_out_and_the_process_is_ended(
    pool: MagicMock, start: MagicMock, mocker: MockerFixture
) -> None:
    pool.submit.side_effect = (
        ZeroDivisionError  # a class is raised, a value would be returned
    )
    with pytest.raises(ZeroDivisionError):
        await work(iter([JOB]), mocker.stub(), lambda: start(Path("scratch")), 5)
    start.return_value.__aexit__.assert_awaited_once()


@pytest.mark.asyncio
async def test_a_future_without_a_result_is_a_process_that_hangs_until_cancelled(
    pool: MagicMock, start: MagicMock, mocker: MockerFixture
) -> None:
    hanging, asked = Future[object](), asyncio.Event()

    def submit(*_: object) -> "Future[object]":
        asked.set()
        return hanging

    pool.submit.side_effect = submit
    run = asyncio.create_task(
        work(iter([JOB]), mocker.stub(), lambda: start(Path("scratch")), 5)
    )
    await asked.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (
        hanging.cancelled()
    )  # a call that has begun cannot be: the process has to end
    start.return_value.__aexit__.assert_awaited_once()


def test_patch_dict_adds_a_kind_of_file_for_one_test(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    count = create_autospec(
        picture, return_value="2 words"
    )  # any kind has this signature
    mocker.patch.dict(KINDS, {".txt": (count, [])})
    text = tmp_path / "a.txt"
    text.write_text("Hello cat")
    assert convert((text, [], 40)) == (True, "2 words")
    count.assert_called_once_with(text, [], 40)


def test_a_spy_sees_that_a_large_jpeg_is_decoded_small(
    draw: Callable[..., Path], mocker: MockerFixture
) -> None:
    look = mocker.spy(Image, "open")
    cat = draw("cat.jpg", size=(3200, 2400))
    assert (
        picture(cat, [cat.with_suffix(".webp"), cat.with_suffix(".gif")], 40)
        == "40 x 30 pixels"
    )
    look.assert_called_once_with(cat)
    assert look.spy_return.size == (400, 300)


@pytest.mark.asyncio
async def test_patching_an_object_sets_the_scene(
    source: Path, to: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(sys.stderr, "isatty", autospec=True, return_value=True)
    walk = mocker.patch.object(os, "walk", autospec=True)
    walk.side_effect = lambda _, onerror: (
        onerror(PermissionError(13, "No entry", "secret")) or []
    )
    assert await main(source, to=to) == 1
    assert "secret: No entry" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_without_its_aenter_a_context_manager_gives_just_another_mock(
    mocker: MockerFixture,
) -> None:
    start = create_autospec(worker)
    async with start(Path("scratch")) as pool:
        assert isinstance(
            pool, AsyncMock
        )  # takes any typo, and its `submit` is a coroutine
    start.return_value.__aexit__.assert_awaited_once()
