"""A coroutine that swallows CancelledError, or leaves something behind when it is
cancelled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any

import pytest

from guards import Record, unfinished, where


async def cancel_everywhere(
    factory: Callable[[], Coroutine[Any, Any, object]],
    check: Callable[[], Awaitable[object] | object] = lambda: None,
) -> int:
    assert Record.current
    tasks, turn = Record.current.tasks, 0
    before = set(tasks)
    while True:
        turn += 1
        task = asyncio.ensure_future(cancelled_at(turn, factory()))
        await asyncio.wait([task])
        if not task.cancelled():
            if place := task.result():
                pytest.fail(f"CancelledError was swallowed at await {turn}:\n{place}")
            return turn - 1
        for left in await unfinished(tasks) - before:
            pytest.fail(f"cancelled at await {turn}, it leaves a task: {where(left)}")
        if isinstance(result := check(), Awaitable):
            await result


@coroutine
def cancelled_at(
    turn: int, work: Coroutine[Any, Any, object]
) -> Generator[Any, None, str]:
    """Run `work`, cancelling it at one of its awaits; return where, if it goes on from
    there.
    """
    awaits, place, step = 0, "", partial(work.send, None)
    while True:
        try:
            waits = step()
        except StopIteration:
            return place
        awaits += 1
        if awaits == turn and (task := asyncio.current_task()):
            place = where(work)
            task.cancel()
        try:
            yield waits
            step = partial(work.send, None)
        except BaseException as error:
            step = partial(work.throw, error)
