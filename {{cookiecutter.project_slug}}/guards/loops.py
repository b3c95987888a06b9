"""What only time and order show: a wrong timeout, a deadlock, a race."""

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from functools import partial
from random import Random
from typing import Any

from guards.watchdog import Watch


class JumpingSelector(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, its time jumps there."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.outside = 0.0, list[Callable[[], bool]]()

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        self.outside = [done for done in self.outside if not done()]
        if self.outside:  # threads and processes take real time
            return super().select(0.05 if timeout is None else min(timeout, 0.05))
        if len(self.get_map()) > 1:  # sockets: the system may need a moment
            ready = super().select(0.05 if timeout is None else 0.005)
        elif timeout is None:
            reason = (
                "a deadlock: every task waits, and nothing is left that could wake one"
            )
            if not Watch.current:
                raise RuntimeError(reason)
            Watch.current.expire(reason)
        self.now += 0.0 if ready else timeout or 0.0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Of `virtual_clock`: sleeps and timeouts take no time, but happen in their right
    order.
    """

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)
        # The one private name: its own value, 1e-9, is lost in a float beyond 97 days.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.selector.now

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(*args)
        self.selector.outside.append(future.done)
        return future

    async def shutdown_default_executor(self, *_: Any) -> None:
        self.selector.outside.append(lambda: False)
        await super().shutdown_default_executor()

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        return self.takes_real_time(await super().subprocess_exec(*args, **options))

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        return self.takes_real_time(await super().subprocess_shell(*args, **options))

    def takes_real_time(self, process: tuple[asyncio.SubprocessTransport, Any]) -> Any:
        self.selector.outside.append(lambda: process[0].get_returncode() is not None)
        return process


class ShuffledLoop(VirtualLoop):
    """Of `shuffled`: the tasks take turns in another order, which the seed decides.

    A task's step is put off, never brought forward: what transports and futures have to
    do before
    it, they have done. Their callbacks keep their order.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.steps = Random(seed), list[partial[object]]()  # noqa: S311
        super().__init__()

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if context and isinstance(getattr(callback, "__self__", None), asyncio.Task):
            step = partial(context.run, callback, *args)
            return super().call_soon(self.its_turn, step)
        return super().call_soon(callback, *args, context=context)

    def its_turn(self, step: partial[object]) -> None:
        self.steps.append(step)
        super().call_soon(self.any_step)

    def any_step(self) -> None:
        if self.random.random() < 0.25:  # now and then all of them wait for a turn
            super().call_soon(self.any_step)
        else:
            self.steps.pop(self.random.randrange(len(self.steps)))()
