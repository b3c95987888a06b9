"""The guards: rules that every test obeys, so that wrong async code turns the suite red.

Each part below says first which bug it catches; the README's table "The guards" says how a test
opts out. Delete this file, and plain pytest-asyncio is left.
"""

import asyncio
import gc
import inspect
import os
import random
import selectors
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from itertools import count
from pathlib import Path
from time import monotonic, thread_time
from types import AsyncGeneratorType, coroutine
from typing import Any, ClassVar
from unittest.mock import NonCallableMock
from weakref import WeakSet

import pytest
import pytest_asyncio
from blockbuster import BlockBuster

ROOT = Path(__file__).parent
DEADLINE = 10.0  # seconds that a test may take
HOLD = 0.5 if os.environ.get("CI") else 0.25  # seconds of CPU that one step may keep the loop
MARKERS = """
deadline(seconds): this test may take other than 10 seconds
virtual_clock: sleeps and timeouts take no real time, the loop's clock jumps
shuffled(n): run n times on a virtual clock, tasks taking turns in n random orders
bare_mocks: mocks without a spec are allowed
blocks_loop: blocking calls in the package and long CPU work are allowed
leaves_tasks: tasks may be left running
leaves_threads: threads may be left running
leaves_generators: async generators may be left unfinished
loses_errors: background tasks and callbacks may fail unnoticed"""


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS.strip().splitlines():
        config.addinivalue_line("markers", marker)
    # A coroutine that is never awaited, a mock's too, is reported with the line that made it.
    sys.set_coroutine_origin_tracking_depth(8)


# What the guards see while a test runs is kept in its record; judged after the test's call, and
# again after its fixtures have released what they hold.


class Record:
    current: ClassVar["Record"]

    def __init__(self, item: pytest.Item) -> None:
        self.item, self.failed = item, False
        self.problems: list[str] = []
        self.tasks = WeakSet[asyncio.Task[Any]]()
        self.generators = WeakSet[AsyncGeneratorType[Any, Any]]()
        self.threads = set(threading.enumerate())
        self.collections = gc.get_stats()[1]["collections"]

    def add(self, opt_out: str, problem: str) -> None:
        if not self.item.get_closest_marker(opt_out):
            self.problems.append(problem)

    def judge(self) -> None:
        problems, self.problems = self.problems, []
        if problems and not self.failed:  # a test that fails anyway has its own story to tell
            pytest.fail("\n".join([f"guards of {self.item.nodeid}:", *problems]), pytrace=False)


owner: ContextVar[Record | None] = ContextVar("owner", default=None)  # set in what a test starts


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    Record.current = Record(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        if pytest_asyncio.is_async_test(item):
            hypothesis = getattr(item.obj, "hypothesis", None)
            place, name = (hypothesis, "inner_test") if hypothesis else (item, "obj")
            patch.setattr(place, name, watched(getattr(place, name), Record.current))
        try:
            yield
        except BaseException:
            Record.current.failed = True
            raise
    Record.current.judge()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    yield
    Record.current.judge()


@pytest.fixture(autouse=True)
def guards(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Set up before the test's other fixtures, torn down after them and after its loop."""
    record, marked = Record.current, request.node.get_closest_marker
    with pytest.MonkeyPatch.context() as patch:
        if not marked("bare_mocks"):
            patch.setattr(NonCallableMock, "__init__", init_with_spec)
        if not marked("blocks_loop"):
            blockbuster().activate()
        token = owner.set(record)
        if pytest_asyncio.is_async_test(request.node):
            scope = marked("asyncio").kwargs.get("loop_scope")
            scope = scope or request.config.getini("asyncio_default_test_loop_scope")
            request.getfixturevalue(f"{scope}_loop_guard")
        yield
        owner.reset(token)
        blockbuster().deactivate()
    # A thread or executor left running.
    for thread in set(threading.enumerate()) - record.threads:
        if not thread.name.startswith("asyncio_"):  # those end with their loop
            thread.join(0.2)
            if thread.is_alive():
                record.add("leaves_threads", f"a thread left running: {thread!r}")
    # A server, connection, file or subprocess left open: Python warns when it is collected. What
    # outlived a collection is in the oldest generation, which is slower to search.
    gc.collect(2 if gc.get_stats()[1]["collections"] > record.collections else 1)


# A task left running, an error lost in a task or callback, an async generator left unfinished.


def loop_guard(scope: Any) -> Any:
    @pytest_asyncio.fixture(loop_scope=scope, name=f"{scope}_loop_guard")
    async def guard() -> AsyncIterator[None]:
        yield
        record = Record.current
        for task in await unfinished(record.tasks):
            record.add("leaves_tasks", f"a task left running: {where(task)}")
            task.cancel()
        await unfinished(record.tasks)
        for generator in record.generators:
            if generator.ag_frame:
                abandoned(generator)

    return guard


for scope in "function", "class", "module", "package", "session":
    globals()[f"{scope}_loop_guard"] = loop_guard(scope)


async def unfinished(tasks: WeakSet[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    left = {task for task in tasks if not task.done()} - {asyncio.current_task()}
    return (await asyncio.wait(left, timeout=0.05))[1] if left else left


def where(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()}\n{lines(task.get_coro())}"


def lines(waits: Any) -> str:
    """Return the lines at which a coroutine waits, the innermost last."""
    frames: list[tuple[Any, int]] = []
    while waits is not None:
        if type(waits).__name__ in ("async_generator_asend", "coroutine_wrapper"):
            waits = gc.get_referents(waits)[0]  # whose it is, it does not say itself
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(waits, f"{kind}_frame")), "")
        frame = getattr(waits, f"{kind}_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        waits = getattr(waits, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def abandoned(generator: AsyncGeneratorType[Any, Any]) -> None:
    text = f"an async generator left unfinished: {generator.__qualname__}\n{lines(generator)}"
    Record.current.add("leaves_generators", text)


def lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    error = context.get("exception")
    text = "".join(traceback.format_exception(error)) if error else repr(context)
    Record.current.add("loses_errors", f"a lost error: {context['message']}\n{text}")


def remembered(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **options)
    if record := owner.get():
        record.tasks.add(task)
    return task


# A test that hangs, and CPU work that keeps the loop: a thread looks on from outside.


class Watch:
    """One run of a test's coroutine."""

    def __init__(self, record: Record, seconds: float) -> None:
        self.record, self.seconds, self.verdict, self.times = record, seconds, "", 0
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        self.thread, self.cpu, self.seen = threading.get_ident(), thread_time(), monotonic()
        self.ends, self.answered, self.held, self.stack = self.seen + seconds, True, 0.0, ""

    def look(self) -> None:
        now = monotonic()
        if self.answered:
            self.answered, self.held = False, 0.0
            self.loop.call_soon_threadsafe(self.answer)
        else:
            stack = traceback.extract_stack(sys._current_frames()[self.thread])
            if not any("importlib" in frame.filename for frame in stack):  # imports take long
                self.held += now - self.seen
                self.stack = "".join(traceback.format_list(stack[-8:]))
        self.seen = now
        if now > self.ends:
            self.ends = now + 1
            self.loop.call_soon_threadsafe(self.expire, f"no end after {self.seconds:g} s")

    def answer(self) -> None:
        cpu = thread_time()  # the loop's own: a busy machine must not fail a test
        if min(self.held, cpu - self.cpu) > HOLD:
            text = f"the loop was kept for {cpu - self.cpu:.2f} s of CPU\n{self.stack}"
            self.record.add("blocks_loop", text)
        self.answered, self.cpu = True, cpu

    def expire(self, reason: str) -> None:
        if self.task and not import_module("pytest_timeout").is_debugging():
            waiting = map(where, asyncio.all_tasks(self.loop))
            self.verdict = self.verdict or "\n".join([f"{reason}; waiting:", *waiting])
            self.times += 1
            self.task.cancel()
            if self.times > 3:  # it swallows every cancellation
                self.loop.stop()


class Watchdog(threading.Thread):
    watch: Watch | None = None

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(0.05):
            with suppress(RuntimeError):  # the loop has just been closed
                if watch := self.watch:
                    watch.look()


watchdog = Watchdog(name="guards", daemon=True)


def watched(test: Callable[..., Awaitable[object]], record: Record) -> Callable[..., Any]:
    marker = record.item.get_closest_marker("deadline")
    if not watchdog.is_alive():
        watchdog.start()
        record.threads.add(watchdog)

    @wraps(test)
    async def watched_test(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        watch = watchdog.watch = Watch(record, marker.args[0] if marker else DEADLINE)
        loop_started, loop_dropped = sys.get_asyncgen_hooks()

        def started(generator: Any) -> None:
            record.generators.add(generator)
            if loop_started:
                loop_started(generator)

        def dropped(generator: Any) -> None:
            abandoned(generator)
            if loop_dropped:
                loop_dropped(generator)

        sys.set_asyncgen_hooks(started, dropped)
        try:
            await test(*args, **kwargs)
        except asyncio.CancelledError:
            if not watch.verdict:
                raise
        finally:
            watchdog.watch = None
        if watch.verdict:
            pytest.fail(watch.verdict, pytrace=False)

    return watched_test


# A blocking call in the package: sleep, file, socket, subprocess, lock.


@cache
def blockbuster() -> BlockBuster:
    names = [init.parent.name for init in ROOT.glob("src/*/__init__.py")] or ["app"]
    return BlockBuster([module_from_spec(spec) for name in names if (spec := find_spec(name))])


# A mock that accepts any typo and any arguments, as it was made without a spec.

plain_init = NonCallableMock.__init__


def init_with_spec(self: Any, *args: Any, **kwargs: Any) -> None:
    __tracebackhide__ = True
    caller: Any = sys._getframe(1)
    while caller.f_code.co_name == "__init__":
        caller = caller.f_back
    file = Path(caller.f_code.co_filename)
    has_spec = args or any(kwargs.get(name) is not None for name in ("spec", "spec_set", "wraps"))
    if not has_spec and file.is_relative_to(ROOT) and "site-packages" not in file.parts:
        pytest.fail(
            f"a mock without a spec, made at {file}:{caller.f_lineno}: use create_autospec(X), "
            "autospec=True or mocker.async_stub(), or mark the test with bare_mocks"
        )
    plain_init(self, *args, **kwargs)


# What only time shows: `virtual_clock` tries timeouts and long waits, `shuffled(n)` other orders.


class JumpingSelector(selectors.DefaultSelector):
    """Where a loop waits for its next timer, time jumps to it."""

    now = 0.0
    loop: "TestLoop"

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.loop.works_outside():
            return super().select(0.05 if timeout is None else min(timeout, 0.05))
        if len(self.get_map()) > 1:  # there are sockets: the system may need a moment
            ready = super().select(0.05 if timeout is None else 0.005)
        elif timeout is None:
            self.loop.deadlock()
        self.now += 0.0 if ready else timeout or 0.0
        return ready


class TestLoop(asyncio.SelectorEventLoop):
    __test__ = False

    def __init__(self, seed: int | None) -> None:
        self.jumping = JumpingSelector()
        self.jumping.loop = self
        self.jobs, self.processes = 0, list[asyncio.SubprocessTransport]()
        self.random = None if seed is None else random.Random(seed)  # noqa: S311
        self.steps: list[partial[object]] = []
        super().__init__(self.jumping)
        # The one private name: 1e-9, its value, is lost in a float beyond 97 days.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.jumping.now

    def works_outside(self) -> bool:
        return self.jobs > 0 or any(made.get_returncode() is None for made in self.processes)

    def deadlock(self) -> None:
        reason = "a deadlock: every task waits and nothing is left that could wake one"
        if watchdog.watch is None:
            raise RuntimeError(reason)
        watchdog.watch.expire(reason)

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(*args)
        self.jobs += 1
        future.add_done_callback(self.job_done)
        return future

    def job_done(self, _: object) -> None:
        self.jobs -= 1

    async def shutdown_default_executor(self, *_: Any) -> None:
        self.jobs += 1  # its thread answers in real time
        await super().shutdown_default_executor()

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        made = await super().subprocess_exec(*args, **kwargs)
        self.processes.append(made[0])
        return made

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        made = await super().subprocess_shell(*args, **kwargs)
        self.processes.append(made[0])
        return made

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.random and isinstance(getattr(callback, "__self__", None), asyncio.Task):
            self.steps.append(partial((context or copy_context()).run, callback, *args))
            callback, args, context = self.any_step, (), None
        return super().call_soon(callback, *args, context=context)

    def any_step(self) -> None:
        assert self.random
        if self.random.random() < 0.25:  # now and then all of them wait for a turn
            super().call_soon(self.any_step)
        else:
            self.steps.pop(self.random.randrange(len(self.steps)))()


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, Any, Any]:
    factories = (yield) or {"asyncio": asyncio.new_event_loop}
    if marker := item.get_closest_marker("shuffled"):
        factories = {f"seed{seed}": partial(TestLoop, seed) for seed in range(marker.args[0])}
    elif item.get_closest_marker("virtual_clock"):
        factories = {"virtual": partial(TestLoop, None)}
    return {name: partial(guarded, factory) for name, factory in factories.items()}


def guarded(factory: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    loop = factory()
    loop.set_exception_handler(lost)
    loop.set_task_factory(remembered)
    return loop


# A coroutine that swallows CancelledError, or leaves something behind when it is cancelled.


@coroutine
def cancelled_at(turn: int, work: Coroutine[Any, Any, object]) -> Generator[Any, None, str]:
    """Run `work`, cancelling it at this one of its awaits; return the lines, if it goes on."""
    step, place = partial(work.send, None), ""
    for now in count(1):
        try:
            waits = step()
        except StopIteration:
            return place
        if now == turn and (task := asyncio.current_task()):
            place = lines(work)
            task.cancel()
        try:
            yield waits
            step = partial(work.send, None)
        except BaseException as error:
            step = partial(work.throw, error)
    raise AssertionError


@pytest.fixture
def cancel_everywhere() -> Callable[..., Awaitable[int]]:
    """Runs `factory()` cancelled at its first await, its second, ... until a run ends by itself.

    Returns how many awaits that were. Each time CancelledError must come out and no task stay;
    `check`, if given, is called to see that nothing else is left behind.
    """

    async def cancel_everywhere(
        factory: Callable[[], Coroutine[Any, Any, object]],
        check: Callable[[], Awaitable[object] | object] | None = None,
    ) -> int:
        record = owner.get()
        assert record
        before = set(record.tasks)
        for turn in count(1):

            async def run(turn: int = turn) -> str:
                return await cancelled_at(turn, factory())

            task = asyncio.create_task(run())
            await asyncio.wait([task])
            if not task.cancelled():
                if place := task.result():
                    pytest.fail(f"CancelledError was swallowed at await {turn}:\n{place}")
                return turn - 1
            for left in await unfinished(record.tasks) - before:
                pytest.fail(f"cancelled at await {turn}, it leaves a task: {where(left)}")
            if check and inspect.isawaitable(result := check()):
                await result
        raise AssertionError

    return cancel_everywhere
