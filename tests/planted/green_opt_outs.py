"""A test can opt out of each guard."""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from importlib import import_module

import pytest

stop = threading.Event()


def handle_signal(*_: object) -> None: ...


async def nap() -> None:
    time.sleep(0.01)


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


async def fail() -> None:
    raise OSError


@pytest.mark.blocks_loop
@pytest.mark.asyncio
async def test_blocks_loop() -> None:
    await import_module("app.planted").nap()
    sum(range(20_000_000))


@pytest.mark.leaves_tasks
@pytest.mark.asyncio
async def test_leaves_tasks() -> None:
    stop.task = asyncio.create_task(asyncio.sleep(600))  # type: ignore[attr-defined]


@pytest.mark.loses_errors
@pytest.mark.asyncio
async def test_loses_errors() -> None:
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task


@pytest.mark.leaves_generators
@pytest.mark.asyncio
async def test_leaves_generators() -> None:
    async for _ in numbers():
        break


@pytest.mark.leaves_timers
@pytest.mark.asyncio
async def test_leaves_timers() -> None:
    asyncio.get_running_loop().call_later(600, fail)


@pytest.mark.leaves_signal_handlers
@pytest.mark.asyncio
async def test_leaves_signal_handlers() -> None:
    signal.signal(signal.SIGTERM, handle_signal)


def test_the_signal_handler_is_not_removed() -> None:
    assert signal.getsignal(signal.SIGTERM) is handle_signal


@pytest.mark.unsafe_calls
@pytest.mark.asyncio
async def test_unsafe_calls() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: loop.call_soon(print))


@pytest.mark.leaves_threads
@pytest.mark.asyncio
async def test_leaves_threads() -> None:
    threading.Thread(target=stop.wait, args=(3,), daemon=True).start()


@pytest.mark.deadline(20)
@pytest.mark.asyncio
async def test_deadline() -> None: ...


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.asyncio
async def test_never_awaited() -> None:
    fail()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.asyncio
async def test_left_open() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
