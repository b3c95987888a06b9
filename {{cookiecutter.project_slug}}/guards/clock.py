"""A virtual clock and a random task order: they show wrong timeouts and races."""

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
MOMENT = 0.05  # seconds of real time between two looks at work outside of the loop
# Seconds of real time without any event that must pass before the virtual time jumps.
SOCKETS_MOMENT = 0.005
THREADS_MOMENT = 0.1


def add_seeds(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked with `shuffled(n)` n times, with different seeds."""
    marker = metafunc.definition.get_closest_marker("shuffled")
    if marker is not None:
        seeds = range(marker.args[0])
        metafunc.fixturenames.append(SEED)
        metafunc.parametrize(SEED, seeds, ids=[f"seed{seed}" for seed in seeds])


def loop_factory(record: Record) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the loop factory for the markers of a test, or None for the default."""
    callspec = getattr(record.item, "callspec", None)
    if callspec is not None and SEED in callspec.params:
        return partial(ShuffledLoop, callspec.params[SEED])
    if record.item.get_closest_marker("virtual_clock") is not None:
        return VirtualLoop
    return None


def check_loop(record: Record, loop: asyncio.AbstractEventLoop) -> None:
    """Fail a test that is marked for a virtual clock, but whose loop has none."""
    __tracebackhide__ = True
    if loop_factory(record) is not None and not isinstance(loop, VirtualLoop):
        pytest.fail(
            f"{record.place()}: virtual_clock and shuffled need a loop of the test's "
            "own, and this test shares its loop with others (loop_scope)",
            pytrace=False,
        )


class JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait for the next timer: the loop's time jumps to it.

    It jumps only after a moment of real time without any event, because sockets, and
    threads that may call back, take real time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # Each function says whether some work outside of the loop is done.
        self.outside: list[Callable[[], bool]] = []
        self.threads_before = set(threading.enumerate())
        # The socket that wakes the loop up for a call from another thread, such as the
        # watchdog's.
        self.waker: Any = None
        # The real time since which no event has come from outside.
        self.quiet_since: float | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        if self.waker is None:
            # A loop registers this socket first.
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
        """Return how many seconds without an event must still pass before a jump."""
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

        It is unknown whether such a thread is idle, or busy and about to call back.
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
    """The loop of `virtual_clock`: sleeps take no real time, and keep their order."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)
        # The only private name here. The default, 1e-9, would be lost by rounding when
        # the time is more than 97 days.
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
        # From now on the loop waits in real time.
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
    """The loop of `shuffled`: the seed decides in which order the tasks run.

    A step of a task may run later than usual, but never earlier: the callbacks of
    transports and futures that come before it have run. These callbacks keep their
    order.
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
            return super().call_soon(self.add_step, step)
        return super().call_soon(callback, *args, context=context)

    def add_step(self, step: partial[object]) -> None:
        self.steps.append(step)
        super().call_soon(self.run_any_step)

    def run_any_step(self) -> None:
        if self.random.random() < 0.25:
            # Sometimes all tasks wait for one iteration of the loop.
            super().call_soon(self.run_any_step)
        else:
            number = self.random.randrange(len(self.steps))
            self.steps.pop(number)()
