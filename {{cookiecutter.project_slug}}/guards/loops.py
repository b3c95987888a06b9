"""The event loop of the tests, which shows the guards what the code does.

All tools that run async code in a test use an `asyncio.Runner`: pytest-asyncio, the
anyio plugin, `IsolatedAsyncioTestCase`, and `asyncio.run()` in a plain test. So the
guards replace a few methods of that class. The loop of a runner gets the methods of
`GuardedLoop` below.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import Context, copy_context
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from guards import clock, resources, tasks
from guards.places import called_by_us, our_caller
from guards.record import Problem, Record, current_owner, owner
from guards.watchdog import Watch

Loop = asyncio.AbstractEventLoop


class GuardedLoop(asyncio.AbstractEventLoop):
    """Methods that run before those of the loop's own class."""

    # The thread in which the loop runs, or None while it does not run.
    running_thread: int | None = None

    def run_forever(self) -> None:
        self.running_thread = threading.get_ident()
        try:
            super().run_forever()
        finally:
            self.running_thread = None

    def run_until_complete(self, future: Any) -> Any:
        __tracebackhide__ = True
        record = Record.current
        in_main_thread = threading.current_thread() is threading.main_thread()
        if record is None or not record.is_in_call or not in_main_thread:
            return super().run_until_complete(future)
        clock.check_loop(record, self)
        task = asyncio.ensure_future(future, loop=self)
        with Watch(record, self, task):
            return super().run_until_complete(task)

    def create_task(self, coro: Any, **options: Any) -> Any:
        task = super().create_task(coro, **options)
        tasks.task_created(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.running_thread not in (None, threading.get_ident()):
            report_unsafe_call("call_soon")
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if context is None:
            context = copy_context()
        if owner not in context:
            # A plain thread inherits no owner; it has that of the test or fixture that
            # has started it.
            context.run(owner.set, current_owner())
        return super().call_soon_threadsafe(callback, *args, context=context)

    # Both are needed: call_later() uses call_at() in asyncio, but not in uvloop.

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = super().call_later(delay, callback, *args, context=context)
        tasks.timer_created(self, timer, callback)
        return timer

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        tasks.timer_created(self, timer, callback)
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        has_own_handler = self.get_exception_handler() is not None
        if has_own_handler or not tasks.error_lost(context):
            super().call_exception_handler(context)

    # The next two names are private. asyncio and uvloop pass these methods to
    # sys.set_asyncgen_hooks. There is no public way to observe the start of a generator
    # and still let the loop finish it.

    def _asyncgen_firstiter_hook(self, generator: Any) -> None:
        tasks.generator_started(self, generator)
        super()._asyncgen_firstiter_hook(generator)  # type: ignore[misc]

    def _asyncgen_finalizer_hook(self, generator: Any) -> None:
        tasks.generator_dropped(generator)
        super()._asyncgen_finalizer_hook(generator)  # type: ignore[misc]

    def close(self) -> None:
        resources.report_what_is_left_open(super().close)


def report_unsafe_call(method: str) -> None:
    """Report a call by the project from a thread that is not the loop's."""
    record = current_owner()
    if record is None or record.allows("unsafe_calls") or not called_by_us():
        return
    what = f"{method}() of a loop, called from another thread"
    hint = "  use call_soon_threadsafe() or run_coroutine_threadsafe()"
    record.add(Problem(what, our_caller(), details=hint))


guarded_classes: dict[type, type] = {}


def guard(loop: Loop) -> None:
    """Add the methods of GuardedLoop to a loop, before those of its own class."""
    plain = type(loop)
    if issubclass(plain, GuardedLoop):
        return
    if plain not in guarded_classes:
        guarded_classes[plain] = type(plain.__name__, (GuardedLoop, plain), {})
    loop.__class__ = guarded_classes[plain]


# The runners that are open, with their loops.
open_runners: WeakKeyDictionary[asyncio.Runner, Loop] = WeakKeyDictionary()
plain_init = asyncio.Runner.__init__
plain_enter = asyncio.Runner.__enter__
plain_get_loop = asyncio.Runner.get_loop
plain_run = asyncio.Runner.run
plain_close = asyncio.Runner.close
LoopFactory = Callable[[], Loop]


def install(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asyncio.Runner, "__init__", init)
    patch.setattr(asyncio.Runner, "__enter__", enter)
    patch.setattr(asyncio.Runner, "get_loop", get_loop)
    patch.setattr(asyncio.Runner, "run", run)
    patch.setattr(asyncio.Runner, "close", close)


def init(
    self: asyncio.Runner,
    *,
    debug: bool | None = None,
    loop_factory: LoopFactory | None = None,
) -> None:
    record = current_owner()
    if record is not None:
        loop_factory = clock.loop_factory(record) or loop_factory
    plain_init(self, debug=debug, loop_factory=loop_factory)


def enter(self: asyncio.Runner) -> asyncio.Runner:
    plain_enter(self)
    get_loop(self)
    return self


def get_loop(self: asyncio.Runner) -> Loop:
    loop = plain_get_loop(self)
    guard(loop)
    open_runners[self] = loop
    return loop


def run(self: asyncio.Runner, coro: Any, *, context: Context | None = None) -> Any:
    __tracebackhide__ = True
    if self not in open_runners:
        get_loop(self)
    return plain_run(self, coro, context=context)


def close(self: asyncio.Runner) -> None:
    """Report what the test has left in the loop, before the loop is closed."""
    loop = open_runners.pop(self, None)
    record = Record.current
    if loop is not None and record is not None and not loop.is_closed():
        look_into(self, loop, record)
    plain_close(self)


def look_into_open_loops(record: Record) -> None:
    """Report what a test has left in loops that stay open after it."""
    for runner, loop in list(open_runners.items()):
        if not loop.is_closed():
            look_into(runner, loop, record)


def look_into(runner: asyncio.Runner, loop: Loop, record: Record) -> None:
    if not tasks.is_anything_left(record, loop):
        return
    if not loop.is_running():
        plain_run(runner, tasks.clean_up(record))
        return
    # It runs in another thread.
    cleaning = asyncio.run_coroutine_threadsafe(tasks.clean_up(record), loop)
    try:
        cleaning.result(timeout=5)
    except FutureTimeoutError:
        record.add(Problem("a loop in another thread does not answer"))
