"""What only time and order show: a wrong timeout, a deadlock, a race."""

import asyncio
import selectors
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial
from random import Random
from typing import Any

import pytest

from guards.record import Record
from guards.watchdog import Watch, Watchdog

SEED = "shuffled_seed"  # the parameter that `shuffled` adds to a test
MOMENT = 0.05  # seconds of real time, for each look at work outside of the loop
# Seconds of real time that must be quiet before the virtual time jumps.
SOCKETS_MOMENT = 0.005
THREADS_MOMENT = 0.1


def add_seeds(metafunc: pytest.Metafunc) -> None:
    """Make `n` tests of a test that is marked with `shuffled(n)`."""
    marker = metafunc.definition.get_closest_marker("shuffled")
    if marker is not None:
        seeds = range(marker.args[0])
        metafunc.fixturenames.append(SEED)
        metafunc.parametrize(SEED, seeds, ids=[f"seed{seed}" for seed in seeds])


def loop_factory(record: Record) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the loop that a test is marked for, or None."""
    callspec = getattr(record.item, "callspec", None)
    if callspec is not None and SEED in callspec.params:
        return partial(ShuffledLoop, callspec.params[SEED])
    if record.item.get_closest_marker("virtual_clock") is not None:
        return VirtualLoop
    return None


def check_loop(record: Record, loop: asyncio.AbstractEventLoop) -> None:
    """Fail a test whose loop should have a virtual clock, and has none."""
    __tracebackhide__ = True
    if loop_factory(record) is not None and not isinstance(loop, VirtualLoop):
        pytest.fail(
            f"{record.place()}: virtual_clock and shuffled need a loop of the test's "
            "own, and this test shares its loop with others (loop_scope)",
            pytrace=False,
        )


class JumpingSelector(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, its time jumps there.

    Before it jumps, everything that takes real time must have been quiet for a moment:
    sockets, and threads that may call back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # Each says whether some work outside of the loop is done.
        self.outside: list[Callable[[], bool]] = []
        self.threads_before = set(threading.enumerate())
        # What wakes the loop up for a call from another thread, as of the watchdog.
        self.waker: Any = None
        # In real time: since when nothing has come from outside.
        self.quiet_since: float | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        if self.waker is None:
            # A loop registers it before anything else.
            self.waker = fileobj
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            self.quiet_since = None
            return super().select(0)
        ready = self.wait(0)
        if ready:
            return ready
        self.outside = [is_done for is_done in self.outside if not is_done()]
        if self.outside:
            # Threads and processes take real time.
            self.quiet_since = None
            return super().select(self.at_most(MOMENT, timeout))
        rest = self.rest_of_quiet_moment()
        if rest > 0:
            return self.wait(rest)
        if timeout is not None:
            self.quiet_since = None
            self.now += timeout
            return []
        if not self.has_foreign_threads() and not self.has_sockets():
            self.report_deadlock()
        return self.wait(MOMENT)

    def rest_of_quiet_moment(self) -> float:
        """Return how long it must stay quiet before the time may jump."""
        now = Watch.now()
        if self.quiet_since is None:
            self.quiet_since = now
        if self.has_foreign_threads():
            moment = THREADS_MOMENT
        elif self.has_sockets():
            moment = SOCKETS_MOMENT
        else:
            moment = 0.0
        return self.quiet_since + moment - now

    def wait(self, seconds: float) -> Any:
        ready = super().select(seconds)
        for key, _events in ready:
            if key.fileobj is not self.waker:
                self.quiet_since = None
        return ready

    def at_most(self, seconds: float, timeout: float | None) -> float:
        return seconds if timeout is None else min(timeout, seconds)

    def has_sockets(self) -> bool:
        return len(self.get_map()) > 1

    def has_foreign_threads(self) -> bool:
        """Say whether there are threads of the test that no executor has started.

        Such a thread may be busy and call back, or it may be idle. Nothing shows it.
        """
        for thread in set(threading.enumerate()) - self.threads_before:
            if not thread.name.startswith(("asyncio_", "ThreadPoolExecutor")):
                return True
        return False

    def report_deadlock(self) -> None:
        reason = "a deadlock: every task waits, and nothing is left that could wake one"
        if Watch.current is None:
            raise RuntimeError(reason)
        Watch.current.expire(reason)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of `virtual_clock`: sleeps take no time, and end in their order."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)
        # The only private name: its own value, 1e-9, is lost in a float after 97 days.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.selector.now

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.current_thread().name != Watchdog.NAME:
            self.selector.quiet_since = None
        return super().call_soon_threadsafe(callback, *args, context=context)

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(*args)
        self.selector.outside.append(future.done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        # Real time from here on.
        self.selector.outside.append(lambda: False)
        await super().shutdown_default_executor(*args)

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        return self.takes_real_time(await super().subprocess_exec(*args, **options))

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        return self.takes_real_time(await super().subprocess_shell(*args, **options))

    def takes_real_time(self, process: tuple[asyncio.SubprocessTransport, Any]) -> Any:
        transport, _protocol = process
        self.selector.outside.append(lambda: transport.get_returncode() is not None)
        return process


class ShuffledLoop(VirtualLoop):
    """The loop of `shuffled`: the seed decides in which order the tasks take turns.

    A task's step is put off, never brought forward: transports and futures have done
    before it what they have to do. Their own callbacks keep their order.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311
        self.steps: list[partial[object]] = []
        super().__init__()

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if context and isinstance(getattr(callback, "__self__", None), asyncio.Task):
            step = partial(context.run, callback, *args)
            return super().call_soon(self.draw_a_lot, step)
        return super().call_soon(callback, *args, context=context)

    def draw_a_lot(self, step: partial[object]) -> None:
        self.steps.append(step)
        super().call_soon(self.run_any_step)

    def run_any_step(self) -> None:
        if self.random.random() < 0.25:
            # Now and then all of them wait for one turn.
            super().call_soon(self.run_any_step)
        else:
            number = self.random.randrange(len(self.steps))
            self.steps.pop(number)()
