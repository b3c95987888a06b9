"""The guards: rules that every test obeys, so that wrong async code turns the suite red.

Each part below says first which bug it catches; the README's table "The guards" says how a test
opts out. Delete this file, and plain pytest-asyncio is left.
"""

import asyncio
import gc
import os
import random
import selectors
import sys
import threading
import traceback
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from time import monotonic, thread_time
from types import AsyncGeneratorType, coroutine
from typing import Any
from unittest.mock import NonCallableMock
from weakref import WeakSet

import pytest
import pytest_asyncio
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError

DEADLINE = 10.0  # seconds that a test may take
HOLD = 0.5 if os.environ.get("CI") else 0.25  # seconds of CPU that one step may keep the loop
MARKERS = """
deadline(seconds): the test may take other than 10 seconds
virtual_clock: the loop's clock jumps to its next timer: sleeps and timeouts take no real time
shuffled(n): run n times on a virtual clock, the tasks taking turns in n random orders
bare_mocks: mocks without a spec are allowed
blocks_loop: blocking calls in the package and long CPU work are allowed
leaves_tasks: tasks may be left running
leaves_threads: threads may be left running
leaves_generators: async generators may be left unfinished
loses_errors: background tasks and callbacks may fail unnoticed"""
ROOT = Path(__file__).parent
Loop = asyncio.AbstractEventLoop
Task = asyncio.Task[Any]
is_debugging: Callable[[], bool] = import_module("pytest_timeout").is_debugging
plain_blocking_error, plain_mock = BlockingError.__init__, NonCallableMock.__init__


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS.strip().splitlines():
        config.addinivalue_line("markers", marker)
    # A coroutine that is never awaited, a mock's too: Python warns, now with the line that made it.
    sys.set_coroutine_origin_tracking_depth(8)
    threading.Thread(target=look_on, name="guards", daemon=True).start()
    NonCallableMock.__init__ = init_with_spec  # type: ignore[method-assign]
    BlockingError.__init__ = init_and_tell  # type: ignore[assignment, method-assign]


class Record:
    """What the guards saw while one test ran."""

    def __init__(self, item: pytest.Item) -> None:
        self.item, self.failures = item, item.session.testsfailed
        self.problems, self.watch = list[str](), list[Watch]()
        self.tasks, self.generators = WeakSet[Task](), list[AsyncGeneratorType[Any, Any]]()

    def add(self, opt_out: str, problem: str) -> None:
        if not self.item.get_closest_marker(opt_out):
            self.problems.append(problem)

    def judge(self) -> None:
        if self.problems and self.item.session.testsfailed == self.failures:
            pytest.fail("\n".join([f"guards of {self.item.nodeid}:", *self.problems]), False)


record: Record | None = None  # of the test that runs
owner: ContextVar[Record | None] = ContextVar("owner", default=None)  # seen by what a test starts


@pytest.fixture(autouse=True)
def guards(request: pytest.FixtureRequest) -> Generator[None]:
    """Set up before the test's other fixtures; torn down after them, and after its loop."""
    global record
    record = Record(request.node)
    threads, collections = set(threading.enumerate()), [at["collections"] for at in gc.get_stats()]
    token = owner.set(record)
    blocked = request.node.get_closest_marker("blocks_loop")
    blockbuster().deactivate() if blocked else blockbuster().activate()
    if pytest_asyncio.is_async_test(request.node):
        hypothesis = getattr(request.node.obj, "hypothesis", None)
        place, name = (hypothesis, "inner_test") if hypothesis else (request.node, "obj")
        test = getattr(place, name)
        setattr(place, name, watched(test, record))
        yield
        setattr(place, name, test)
    else:
        yield
    owner.reset(token)
    # A thread or executor left running.
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith(("asyncio_", "uvloop_")):  # their loop ends them
            thread.join(0.2)
            if thread.is_alive():
                record.add("leaves_threads", f"a thread left running: {thread!r}")
    # What is left open is collected here. What outlived collections during the test has moved to
    # the next generation, or the oldest, which take longer.
    outlived = [at["collections"] > n for at, n in zip(gc.get_stats(), collections, strict=True)]
    tell_what_is_left_open(partial(gc.collect, sum(outlived[:2])))
    ended, record = record, None
    ended.judge()


# A server, connection, file or subprocess left open: Python warns while it cleans up.


def tell_what_is_left_open(clean_up: Callable[[], object]) -> None:
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")  # an error in the middle of this makes uvloop hang
        clean_up()
    for warning in left:
        try:
            warnings.warn(warning.message, stacklevel=1)
        except Warning as error:
            if not record:
                raise
            # Known when Python runs with `-X tracemalloc=20`.
            opened = tracemalloc.get_object_traceback(warning.source)
            record.problems += [str(error), *(opened.format() if opened else ())]


# A task left running, an error lost in a task or callback, an async generator left unfinished.


@pytest.fixture(autouse=True)
def guards_in_loop(guards: None, request: pytest.FixtureRequest) -> None:
    """Torn down after the test's other fixtures, but while its loop still runs."""
    if pytest_asyncio.is_async_test(request.node):
        marker = request.node.get_closest_marker("asyncio")
        scope = marker.kwargs.get("loop_scope") if marker else None
        scope = scope or request.config.getini("asyncio_default_test_loop_scope")
        request.getfixturevalue(f"{scope}_loop_guard")


def loop_guard(scope: Any) -> Any:
    @pytest_asyncio.fixture(loop_scope=scope, name=f"{scope}_loop_guard")
    async def guard() -> AsyncIterator[None]:
        yield
        assert record
        for task in await unfinished(record.tasks):
            record.add("leaves_tasks", f"a task left running: {where(task)}")
            task.cancel()
        await unfinished(record.tasks)
        for generator in record.generators:
            if generator.ag_frame:
                text = f"an async generator left unfinished: {generator.__qualname__}"
                record.add("leaves_generators", f"{text}\n{where(generator)}")
                await generator.aclose()

    return guard


for scope in "function", "class", "module", "package", "session":
    globals()[f"{scope}_loop_guard"] = loop_guard(scope)


async def unfinished(tasks: WeakSet[Task]) -> set[Task]:
    left = {task for task in tasks if not task.done()} - {asyncio.current_task()}
    return (await asyncio.wait(left, timeout=0.05))[1] if left else left


def where(waits: Any) -> str:
    """Return the lines at which a task or coroutine waits, the innermost last."""
    name, frames = "", list[tuple[Any, int]]()
    if isinstance(waits, asyncio.Task):
        name, waits = f"{waits.get_name()}\n", waits.get_coro()
    while waits is not None:
        if type(waits).__name__ in ("async_generator_asend", "coroutine_wrapper"):
            waits = gc.get_referents(waits)[0]  # it does not say itself whose it is
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(waits, f"{kind}_frame")), "")
        if not (frame := getattr(waits, f"{kind}_frame", None)):
            break
        frames.append((frame, frame.f_lineno))
        waits = getattr(waits, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return name + "".join(traceback.StackSummary.extract(iter(frames)).format())


def guarded(factory: Callable[[], Loop]) -> Loop:
    def lost(loop: Loop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if record:
            error = context.get("exception")
            text = "".join(traceback.format_exception(error)) if error else repr(context)
            record.add("loses_errors", f"a lost error: {context['message']}\n{text}")

    def owned(loop: Loop, coro: Any, **options: Any) -> Task:
        task = asyncio.Task(coro, loop=loop, **options)
        if of := owner.get():
            of.tasks.add(task)
        return task

    loop = factory()
    loop.set_exception_handler(lost)
    loop.set_task_factory(owned)
    loop.close = partial(tell_what_is_left_open, loop.close)  # type: ignore[method-assign]
    return loop


# A test that hangs, and CPU work that keeps the loop: a thread looks on from outside.


def watched(test: Callable[..., Awaitable[object]], record: Record) -> Callable[..., Any]:
    @wraps(test)
    async def watched_test(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        started = sys.get_asyncgen_hooks().firstiter or id

        def also_started(generator: Any) -> None:
            record.generators.append(generator)
            started(generator)

        sys.set_asyncgen_hooks(firstiter=also_started)
        watch = Watch(record)
        record.watch.append(watch)
        try:
            await test(*args, **kwargs)
        except asyncio.CancelledError:
            if not watch.verdict:
                raise
        finally:
            record.watch.clear()
        if watch.verdict:
            pytest.fail(watch.verdict, pytrace=False)
        record.judge()

    return watched_test


class Watch:
    """One run of a test's coroutine."""

    def __init__(self, record: Record) -> None:
        deadline = record.item.get_closest_marker("deadline")
        self.seconds = deadline.args[0] if deadline else DEADLINE
        self.record, self.verdict, self.strikes, self.debugged = record, "", 0, is_debugging()
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        self.thread, self.cpu, self.seen = threading.get_ident(), thread_time(), monotonic()
        self.ends, self.answered, self.held, self.stack = self.seen + self.seconds, True, 0.0, ""

    def look(self) -> None:
        now = monotonic()
        if self.answered:
            self.answered, self.held = False, 0.0
            self.loop.call_soon_threadsafe(self.answer)
        else:
            stack = traceback.extract_stack(sys._current_frames()[self.thread])
            if not any("importlib" in frame.filename for frame in stack):  # an import takes long
                self.held += now - self.seen
                self.stack = "".join(traceback.format_list(stack[-8:]))
        self.seen = now
        if now > self.ends and not (self.debugged or is_debugging()):
            self.ends = now + 1
            self.loop.call_soon_threadsafe(self.expire, f"no end after {self.seconds:g} s")

    def answer(self) -> None:
        cpu = thread_time()  # its own, not the clock's: a busy machine must not fail a test
        if min(self.held, cpu - self.cpu) > HOLD:
            text = f"the loop was kept for {cpu - self.cpu:.2f} s of CPU\n{self.stack}"
            self.record.add("blocks_loop", text)
        self.answered, self.cpu = True, cpu

    def expire(self, reason: str) -> None:
        waiting = map(where, asyncio.all_tasks(self.loop))
        self.verdict = self.verdict or "\n".join([f"{reason}; what waits where:", *waiting])
        self.strikes += 1
        if self.strikes > 3:  # it swallows every cancellation
            print(self.verdict, file=sys.stderr)
            self.loop.stop()
        elif self.task:
            self.task.cancel()


def look_on() -> None:
    while not threading.Event().wait(0.05):
        with suppress(RuntimeError):  # its loop has just been closed
            for watch in list(record.watch) if record else ():
                watch.look()


# A blocking call in the package: sleep, file, socket, subprocess, lock.


@cache
def blockbuster() -> BlockBuster:
    names = [init.parent.name for init in ROOT.glob("src/*/__init__.py")] or ["app"]
    package = [module_from_spec(spec) for name in names if (spec := find_spec(name))]
    blockbuster = BlockBuster(package)
    if not package:  # it would look at everything
        blockbuster.functions.clear()
    for name in "subprocess.Popen.wait", "socket.getaddrinfo":
        blockbuster.functions[name] = BlockBusterFunction(None, name, scanned_modules=package)
    for function in blockbuster.functions.values():
        function.can_block_in("logging/__init__.py", "handle")
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
    return blockbuster


def init_and_tell(self: BlockingError, function: str) -> None:
    plain_blocking_error(self, function)
    if record:  # an `except Exception` may swallow it
        stack = "".join(traceback.format_stack()[-8:-2])
        record.problems.append(f"a blocking call to {function}\n{stack}")


# A mock that accepts any typo and any arguments, as it was made without a spec.


def init_with_spec(
    self: Any, spec: Any = None, wraps: Any = None, name: Any = None, *more: Any, **options: Any
) -> None:
    __tracebackhide__ = True
    caller: Any = sys._getframe(1)
    while caller.f_code.co_name == "__init__":
        caller = caller.f_back
    file = Path(caller.f_code.co_filename)
    ours = file.is_relative_to(ROOT) and "site-packages" not in file.parts
    specs = spec, wraps, *more[:1], options.get("spec_set")
    bare = ours and all(given is None for given in specs)
    if bare and record and not record.item.get_closest_marker("bare_mocks"):
        pytest.fail(
            f"a mock without a spec, made at {file}:{caller.f_lineno}: use create_autospec(X), "
            "autospec=True or mocker.async_stub(), or mark the test with bare_mocks"
        )
    plain_mock(self, spec, wraps, name, *more, **options)


# What only time shows: `virtual_clock` tries timeouts and long waits, `shuffled(n)` other orders.


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
            reason = "a deadlock: every task waits, and nothing is left that could wake one"
            if not (record and record.watch):
                raise RuntimeError(reason)
            record.watch[0].expire(reason)
        self.now += 0.0 if ready else timeout or 0.0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int | None = None) -> None:
        self.selector, self.steps = JumpingSelector(), list[partial[object]]()
        self.random = None if seed is None else random.Random(seed)  # noqa: S311
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
        made = await super().subprocess_exec(*args, **options)
        self.selector.outside.append(lambda: made[0].get_returncode() is not None)
        return made

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        made = await super().subprocess_shell(*args, **options)
        self.selector.outside.append(lambda: made[0].get_returncode() is not None)
        return made

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        step_of_a_task = isinstance(getattr(callback, "__self__", None), asyncio.Task)
        if self.random and context and step_of_a_task:
            self.steps.append(partial(context.run, callback, *args))
            callback, args, context = self.any_step, (self.random,), None
        return super().call_soon(callback, *args, context=context)

    def any_step(self, random: random.Random) -> None:
        if random.random() < 0.25:  # now and then all of them wait for a turn
            super().call_soon(self.any_step, random)
        else:
            self.steps.pop(random.randrange(len(self.steps)))()


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, Any, Any]:
    factories = (yield) or {"asyncio": asyncio.new_event_loop}
    if shuffled := item.get_closest_marker("shuffled"):
        factories = {f"seed{seed}": partial(VirtualLoop, seed) for seed in range(shuffled.args[0])}
    elif item.get_closest_marker("virtual_clock"):
        factories = {"virtual": VirtualLoop}
    return {name: partial(guarded, factory) for name, factory in factories.items()}


# A coroutine that swallows CancelledError, or leaves something behind when it is cancelled.


@pytest.fixture
def cancel_everywhere() -> Callable[..., Awaitable[int]]:
    """Runs `factory()` cancelled at its first await, its second, ... until a run ends by itself.

    Each time CancelledError must come out, no task stay, and `check()`, if given, not fail.
    Returns how many awaits there were.
    """

    async def cancel_everywhere(
        factory: Callable[[], Coroutine[Any, Any, object]],
        check: Callable[[], Awaitable[object] | object] = lambda: None,
    ) -> int:
        assert record
        turn, before = 0, set(record.tasks)
        while True:
            turn += 1
            task = asyncio.ensure_future(cancelled_at(turn, factory()))
            await asyncio.wait([task])
            if not task.cancelled():
                if place := task.result():
                    pytest.fail(f"CancelledError was swallowed at await {turn}:\n{place}")
                return turn - 1
            for left in await unfinished(record.tasks) - before:
                pytest.fail(f"cancelled at await {turn}, it leaves a task: {where(left)}")
            if isinstance(result := check(), Awaitable):
                await result

    return cancel_everywhere


@coroutine
def cancelled_at(turn: int, work: Coroutine[Any, Any, object]) -> Generator[Any, None, str]:
    """Run `work`, cancelling it at one of its awaits; return where, if it goes on from there."""
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
