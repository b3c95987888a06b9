"""Tests that hang, and CPU work that keeps the loop busy; a thread watches for both."""

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from guards.places import (
    Place,
    frames,
    innermost_of_ours,
    is_in_package,
    place_of,
    shown,
    where_it_waits,
)
from guards.record import Problem, Record

DEADLINE = 10.0  # seconds that a test may take
# Seconds of CPU time for which one step may keep the loop busy. Machines for CI are
# slower.
LONG_STEP = 0.5 if os.environ.get("CI") else 0.25
LOOKS_EVERY = 0.05  # seconds
DEBUGGERS = ("bdb", "pdb", "pydevd")
CALLS_SHOWN = 8


class Watchdog:
    """The thread that checks the current `Watch` at regular intervals."""

    NAME = "guards"

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self.run, name=self.NAME, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def run(self) -> None:
        while not self.stopped.wait(LOOKS_EVERY):
            watch = Watch.current
            if watch is not None:
                # The loop may be closed at any moment.
                with suppress(RuntimeError):
                    watch.look()


class Watch:
    """Watches one run of a loop for a test."""

    current: ClassVar["Watch | None"] = None
    # Whether pytest has opened pdb.
    in_pdb: ClassVar[bool] = False
    # The functions are kept in the class, because a tool that freezes the clock
    # replaces them in all modules.
    now = staticmethod(time.monotonic)
    cpu_time = staticmethod(time.thread_time)

    def __init__(
        self, record: Record, loop: asyncio.AbstractEventLoop, task: Any
    ) -> None:
        self.record = record
        self.loop = loop
        self.task = task
        self.outer: Watch | None = None
        # The deadline, and the message after it has passed.
        marker = record.item.get_closest_marker("deadline")
        self.seconds = DEADLINE if marker is None else float(marker.args[0])
        self.ends = self.now() + self.seconds
        self.verdict = ""
        self.cancellations = 0
        self.is_debugged = is_debugging()
        # Whether the loop has answered the last call, and for how many seconds it has
        # not.
        self.thread = threading.get_ident()
        self.has_answered = True
        self.cpu_at_call = self.cpu_time()
        self.last_look = self.now()
        self.held = 0.0
        self.calls: list[Place] = []

    def __enter__(self) -> None:
        self.outer = Watch.current
        Watch.current = self

    def __exit__(
        self, _type: object, error: BaseException | None, _traceback: object
    ) -> None:
        __tracebackhide__ = True
        Watch.current = self.outer
        if not self.verdict:
            return
        stopped = isinstance(error, RuntimeError) and "loop stopped" in str(error)
        message = "\n".join([self.verdict, *self.record.messages()])
        if error is None or stopped or isinstance(error, asyncio.CancelledError):
            raise pytest.fail.Exception(message, pytrace=False) from None
        error.add_note(message)

    # These two run in the watchdog's thread.

    def look(self) -> None:
        """Check whether the loop still answers and whether the deadline has passed."""
        now = self.now()
        if self.has_answered:
            self.has_answered = False
            self.held = 0.0
            self.calls = []
            self.loop.call_soon_threadsafe(self.answer)
        else:
            self.look_at_busy_loop(now - self.last_look)
        self.last_look = now
        is_late = now > self.ends
        if is_late and not (self.is_debugged or Watch.in_pdb or is_monitored()):
            self.ends = now + 1
            self.loop.call_soon_threadsafe(
                self.expire, f"no end after {self.seconds:g} s"
            )

    def look_at_busy_loop(self, elapsed: float) -> None:
        calls = [place_of(frame) for frame in frames(current_frame(self.thread))]
        if any("importlib" in place.file for place in calls):
            # An import may take long.
            return
        if any(is_in_package(place.file) for place in calls):
            self.held += elapsed
            self.calls = calls[:CALLS_SHOWN]
            self.calls.reverse()

    # These run in the loop.

    def answer(self) -> None:
        """Show that the loop runs; report a problem if it was kept busy for too long.

        Only the CPU time of the loop's own thread counts, so a busy machine does not
        fail a test.
        """
        cpu = self.cpu_time()
        busy = cpu - self.cpu_at_call
        if min(self.held, busy) > LONG_STEP and not self.record.allows("blocks_loop"):
            what = f"the loop was kept busy for {busy:.2f} s of CPU time"
            place = innermost_of_ours(self.calls)
            self.record.add(Problem(what, place, details=shown(self.calls)))
        self.has_answered = True
        self.cpu_at_call = cpu

    def expire(self, reason: str) -> None:
        """Cancel the test. The verdict names the lines at which the tasks wait."""
        if self.task.done():
            return
        if not self.verdict:
            self.verdict = self.describe_tasks(reason)
        self.cancellations += 1
        if self.cancellations > 3:
            # The test swallows every cancellation.
            print(self.verdict, file=sys.stderr)
            self.loop.stop()
        else:
            self.task.cancel()

    def describe_tasks(self, reason: str) -> str:
        """Return a message that begins with the line at which the test waits."""
        lines = ["the tasks, and where they wait:"]
        place = None
        for task in sorted(asyncio.all_tasks(self.loop), key=self.is_other_task):
            waits = where_it_waits(task.get_coro())
            lines.append(task.get_name())
            lines.append(shown(waits))
            place = place or innermost_of_ours(waits)
        place = place or self.record.place()
        return "\n".join([f"{place}: {reason}", f"    {place.source()}", *lines])

    def is_other_task(self, task: Any) -> bool:
        """Return the sort key of a task: the task of the test comes first."""
        return task is not self.task


def current_frame(thread: int) -> Any:
    return sys._current_frames().get(thread)


def is_debugging() -> bool:
    """Say whether a debugger is attached. If so, the deadline is off.

    Must be called in the thread of the test.
    """
    trace = sys.gettrace()
    module = getattr(trace, "__module__", None) or type(trace).__module__
    if module.startswith(DEBUGGERS):
        return True
    return is_monitored()


def is_monitored() -> bool:
    if sys.version_info < (3, 12):
        return False
    return sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID) is not None
