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
MOMENT = 0.05  # seconds of real time that the system or a thread gets
THREADS_MOMENT = 0.1  # the same, for a thread that no executor has started


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
    """Where a loop would wait for its next timer, its time jumps there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # Each says whether some work outside of the loop is done.
        self.outside: list[Callable[[], bool]] = []
        self.threads_before = set(threading.enumerate())
        # In real time: when the threads will have been quiet for a moment.
        self.quiet_until: float | None = None

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        self.outside = [is_done for is_done in self.outside if not is_done()]
        if self.outside:
            # Threads and processes take real time.
            return super().select(self.at_most(MOMENT, timeout))
        if self.has_foreign_threads() and not self.has_waited_for_threads(timeout):
            return super().select(MOMENT)
        if len(self.get_map()) > 1:
            # There are sockets: the system may need a moment.
            ready = super().select(MOMENT if timeout is None else MOMENT / 10)
        elif timeout is None:
            self.report_deadlock()
        self.quiet_until = None
        if not ready and timeout is not None:
            self.now += timeout
        return ready

    def has_waited_for_threads(self, timeout: float | None) -> bool:
        """Say whether the threads of the test have been quiet for a moment.

        A thread that has been quiet may still be busy. Nothing shows which it is, so
        without a timer to jump to there is always time for it.
        """
        now = Watch.now()
        if self.quiet_until is None:
            self.quiet_until = now + THREADS_MOMENT
        return timeout is not None and now > self.quiet_until

    def at_most(self, seconds: float, timeout: float | None) -> float:
        return seconds if timeout is None else min(timeout, seconds)

    def has_foreign_threads(self) -> bool:
        """Say whether there are threads of the test that no executor has started."""
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
            self.selector.quiet_until = None
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
