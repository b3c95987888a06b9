"""Coroutines that swallow a cancellation, or leave tasks or state behind after it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any

import pytest

from guards.places import innermost_of_ours, shown, where_it_waits
from guards.record import Record
from guards.tasks import still_running


async def cancel_everywhere(
    factory: Callable[[], Coroutine[Any, Any, object]],
    check: Callable[[], Awaitable[object] | object] | None = None,
) -> int:
    """Cancel the coroutine of `factory()` at each of its awaits, in a run for each.

    Each cancelled run must end with CancelledError and leave no task. Then `check()`,
    if it is given, is called, and must not fail. The last run is not cancelled. Returns
    the number of awaits.
    """
    record = Record.current
    assert record is not None
    before = set(record.tasks)
    turn = 1
    while True:
        steps = CancelledAt(turn, factory())
        task = asyncio.ensure_future(steps.run())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
            if steps.places:
                fail_at(steps.places, f"CancelledError was swallowed at await {turn}")
            return turn - 1
        for left in await still_running(set(record.tasks) - before):
            places = where_it_waits(left.get_coro())
            fail_at(places, f"cancelled at await {turn}, it leaves a task")
        if check is not None:
            result = check()
            if isinstance(result, Awaitable):
                await result
        turn += 1


def fail_at(places: list[Any], what: str) -> None:
    __tracebackhide__ = True
    first = ""
    place = innermost_of_ours(places)
    if place is not None:
        first = f"{place}: "
    pytest.fail(f"{first}{what}\n{shown(places)}", pytrace=False)


class CancelledAt:
    """Runs a coroutine, and cancels it at one of its awaits."""

    def __init__(self, turn: int, work: Coroutine[Any, Any, object]) -> None:
        self.turn = turn
        self.work = work
        # The lines at which it waited when it was cancelled, the innermost last.
        self.places: list[Any] = []

    @coroutine
    def run(self) -> Generator[Any, Any, None]:
        """Run the coroutine step by step, and pass on the futures that it waits for."""
        awaits = 0
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    waits_for = self.work.send(None)
                else:
                    waits_for = self.work.throw(error)
            except StopIteration:
                return
            error = None
            awaits += 1
            if awaits == self.turn:
                self.places = where_it_waits(self.work)
                this_task = asyncio.current_task()
                assert this_task is not None
                this_task.cancel()
            try:
                yield waits_for
            except BaseException as thrown:
                error = thrown
