"""A test that hangs, and CPU work that keeps the loop: a thread watches both."""

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from time import monotonic, thread_time
from typing import Any, ClassVar

import pytest

from guards import Record, where

DEADLINE = 10.0  # seconds that a test may take
HOLD = (
    0.5 if os.environ.get("CI") else 0.25
)  # seconds of CPU that one step may keep the loop
is_debugging: Callable[[], bool] = import_module("pytest_timeout").is_debugging


def start() -> None:
    threading.Thread(target=look_on, name="guards", daemon=True).start()


def look_on() -> None:
    while not threading.Event().wait(0.05):
        with suppress(RuntimeError):  # its loop has just been closed
            if watch := Watch.current:
                watch.look()


class Watch:
    """Around one run of a test's coroutine."""

    current: ClassVar["Watch | None"] = None

    def __init__(self, record: Record) -> None:
        self.record = record
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        # The deadline, and what there is to say once it is over.
        deadline = record.item.get_closest_marker("deadline")
        self.seconds = deadline.args[0] if deadline else DEADLINE
        self.ends, self.verdict, self.strikes = monotonic() + self.seconds, "", 0
        self.debugged = is_debugging()
        # The loop: whether it has answered, its CPU time then, for how long it has not,
        # and why.
        self.thread, self.answered, self.cpu = (
            threading.get_ident(),
            True,
            thread_time(),
        )
        self.seen, self.held, self.stack = monotonic(), 0.0, ""

    def __enter__(self) -> None:
        Watch.current = self

    def __exit__(
        self, _type: object, error: BaseException | None, _traceback: object
    ) -> None:
        __tracebackhide__ = True
        Watch.current = None
        if self.verdict and (
            error is None or isinstance(error, asyncio.CancelledError)
        ):
            pytest.fail(self.verdict, pytrace=False)
        if self.verdict and error:
            error.add_note(self.verdict)

    def look(self) -> None:
        """In the watchdog's thread: ask the loop for a sign of life."""
        now = monotonic()
        if self.answered:
            self.answered, self.held = False, 0.0
            self.loop.call_soon_threadsafe(self.answer)
        else:
            stack = traceback.extract_stack(sys._current_frames()[self.thread])
            if not any(
                "importlib" in frame.filename for frame in stack
            ):  # an import takes long
                self.held += now - self.seen
                self.stack = "".join(traceback.format_list(stack[-8:]))
        self.seen = now
        if now > self.ends and not (self.debugged or is_debugging()):
            self.ends = now + 1
            self.loop.call_soon_threadsafe(
                self.expire, f"no end after {self.seconds:g} s"
            )

    def answer(self) -> None:
        """In the loop: give it, and say how long it took."""
        cpu = (
            thread_time()
        )  # its own, not the clock's: a busy machine must not fail a test
        if min(self.held, cpu - self.cpu) > HOLD:
            text = f"the loop was kept for {cpu - self.cpu:.2f} s of CPU\n{self.stack}"
            self.record.add("blocks_loop", text)
        self.answered, self.cpu = True, cpu

    def expire(self, reason: str) -> None:
        """In the loop: cancel the test, and keep what waits where."""
        waiting: Any = map(where, asyncio.all_tasks(self.loop))
        self.verdict = self.verdict or "\n".join(
            [f"{reason}; what waits where:", *waiting]
        )
        self.strikes += 1
        if self.strikes > 3:  # it swallows every cancellation
            print(self.verdict, file=sys.stderr)
            self.loop.stop()
        elif self.task:
            self.task.cancel()
