"""The guards: rules that every test obeys, so that wrong async code turns the suite
red.

Each part below says first which bug it catches. What needs more room has a file in
guards/: a test
that hangs (watchdog.py), time and order (loops.py), cancellation (cancellation.py). The
README's
table "The guards" says how a test opts out. Delete this file and guards/, and plain
pytest-asyncio
is left.
"""

import asyncio
import gc
import sys
import threading
import traceback
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextvars import ContextVar
from functools import cache, partial, wraps
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any
from unittest.mock import NonCallableMock

import pytest
import pytest_asyncio
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError

from guards import Record, Task, cancellation, unfinished, watchdog, where
from guards.loops import ShuffledLoop, VirtualLoop

MARKERS = """
deadline(seconds): the test may take other than 10 seconds
virtual_clock: the loop's clock jumps to its next timer: sleeps and timeouts take no
real time
shuffled(n): run n times on a virtual clock, the tasks taking turns in n random orders
bare_mocks: mocks without a spec are allowed
blocks_loop: blocking calls in the package and long CPU work are allowed
leaves_tasks: tasks may be left running
leaves_threads: threads may be left running
leaves_generators: async generators may be left unfinished
loses_errors: background tasks and callbacks may fail unnoticed"""
ROOT = Path(__file__).parent
PACKAGES = [init.parent.name for init in ROOT.glob("src/*/__init__.py")]
Loop = asyncio.AbstractEventLoop
plain_blocking_error, plain_mock = BlockingError.__init__, NonCallableMock.__init__
owner: ContextVar[Record | None] = ContextVar(
    "owner", default=None
)  # seen by what a test starts


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS.strip().splitlines():
        config.addinivalue_line("markers", marker)
    # A coroutine that is never awaited, a mock's too: Python warns, now with the line
    # that made it.
    sys.set_coroutine_origin_tracking_depth(8)
    watchdog.start()
    NonCallableMock.__init__ = init_with_spec  # type: ignore[method-assign]
    BlockingError.__init__ = init_and_tell  # type: ignore[assignment, method-assign]


def pytest_collection_finish() -> None:
    gc.collect()
    # What has been imported stays: the collections after the tests leave it out.
    gc.freeze()


@pytest.fixture(autouse=True)
def guards(request: pytest.FixtureRequest) -> Generator[None]:
    """Set up before the test's other fixtures; torn down after them, and after its
    loop.
    """
    record = Record.current = Record(request.node)
    threads, collections = (
        set(threading.enumerate()),
        [at["collections"] for at in gc.get_stats()],
    )
    token = owner.set(record)
    blockbuster().deactivate() if record.allows(
        "blocks_loop"
    ) else blockbuster().activate()
    with pytest.MonkeyPatch.context() as patch:
        if pytest_asyncio.is_async_test(request.node):
            hypothesis = getattr(request.node.obj, "hypothesis", None)
            place, name = (
                (hypothesis, "inner_test") if hypothesis else (request.node, "obj")
            )
            patch.setattr(place, name, watched(getattr(place, name), record))
        yield
    owner.reset(token)
    # A thread or executor left running.
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith(("asyncio_", "uvloop_")):  # their loop ends them
            thread.join(0.2)
            if thread.is_alive():
                record.add("leaves_threads", f"a thread left running: {thread!r}")
    # What is left open is collected here. What outlived collections during the test has
    # moved to
    # the next generation, or the oldest, which take longer.
    outlived = [
        at["collections"] > n for at, n in zip(gc.get_stats(), collections, strict=True)
    ]
    tell_what_is_left_open(partial(gc.collect, sum(outlived[:2])))
    Record.current = None
    record.judge()


def watched(
    test: Callable[..., Awaitable[object]], record: Record
) -> Callable[..., Any]:
    @wraps(test)
    async def watched_test(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        of_the_loop = sys.get_asyncgen_hooks().firstiter or id

        def started(generator: Any) -> None:
            record.generators.append(generator)
            of_the_loop(generator)

        sys.set_asyncgen_hooks(firstiter=started)
        with watchdog.Watch(record):
            await test(*args, **kwargs)
        record.judge()

    return watched_test


# A server, connection, file or subprocess left open: Python warns while it cleans up.


def tell_what_is_left_open(clean_up: Callable[[], object]) -> None:
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter(
            "always"
        )  # an error in the middle of this makes uvloop hang
        clean_up()
    for warning in left:
        try:
            warnings.warn(warning.message, stacklevel=1)
        except Warning as error:
            if not Record.current:
                raise
            # Known when Python runs with `-X tracemalloc=20`.
            opened = tracemalloc.get_object_traceback(warning.source)
            Record.current.problems += [
                str(error),
                *(opened.format() if opened else ()),
            ]


# A task left running, an error lost in a task or callback, an async generator left
# unfinished.


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
        record = Record.current
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


def guarded(factory: Callable[[], Loop]) -> Loop:
    def lost(loop: Loop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if Record.current:
            error = context.get("exception")
            text = (
                "".join(traceback.format_exception(error)) if error else repr(context)
            )
            Record.current.add(
                "loses_errors", f"a lost error: {context['message']}\n{text}"
            )

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


@pytest.hookimpl(wrapper=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, Any, Any]:
    factories = (yield) or {"asyncio": asyncio.new_event_loop}
    if marker := item.get_closest_marker("shuffled"):
        factories = {
            f"seed{seed}": partial(ShuffledLoop, seed) for seed in range(marker.args[0])
        }
    elif item.get_closest_marker("virtual_clock"):
        factories = {"virtual": VirtualLoop}
    return {name: partial(guarded, factory) for name, factory in factories.items()}


# A blocking call in the package: sleep, file, socket, subprocess, lock.


@cache
def blockbuster() -> BlockBuster:
    package = [module_from_spec(spec) for name in PACKAGES if (spec := find_spec(name))]
    blockbuster = BlockBuster(package)
    if not package:  # it would look at everything
        blockbuster.functions.clear()
    for name in "subprocess.Popen.wait", "socket.getaddrinfo":
        blockbuster.functions[name] = BlockBusterFunction(
            None, name, scanned_modules=package
        )
    for function in blockbuster.functions.values():
        function.can_block_in("logging/__init__.py", "handle")
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
        # asyncpg looks for TLS files in the home folder, each time it connects over
        # TCP.
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
    return blockbuster


def init_and_tell(self: BlockingError, function: str) -> None:
    plain_blocking_error(self, function)
    if Record.current:  # an `except Exception` may swallow it
        stack = "".join(traceback.format_stack()[-8:-2])
        Record.current.problems.append(f"a blocking call to {function}\n{stack}")


# A mock that accepts any typo and any arguments, as it was made without a spec.


def init_with_spec(
    self: Any,
    spec: Any = None,
    wraps: Any = None,
    name: Any = None,
    *more: Any,
    **options: Any,
) -> None:
    __tracebackhide__ = True
    caller: Any = sys._getframe(1)
    while caller.f_code.co_name == "__init__":
        caller = caller.f_back
    file = Path(caller.f_code.co_filename)
    ours = file.is_relative_to(ROOT) and "site-packages" not in file.parts
    bare = all(
        given is None for given in (spec, wraps, *more[:1], options.get("spec_set"))
    )
    if ours and bare and Record.current and not Record.current.allows("bare_mocks"):
        pytest.fail(
            f"a mock without a spec, made at {file}:{caller.f_lineno}: use "
            "create_autospec(X), "
            "autospec=True or mocker.async_stub(), or mark the test with bare_mocks"
        )
    plain_mock(self, spec, wraps, name, *more, **options)


# A coroutine that swallows CancelledError, or leaves something behind when it is
# cancelled.


@pytest.fixture
def cancel_everywhere() -> Callable[..., Awaitable[int]]:
    """Runs `factory()` cancelled at its first await, its second, ... until a run ends
    by itself.

    Each time CancelledError must come out, no task stay, and `check()`, if given, not
    fail.
    Returns how many awaits there were.
    """
    return cancellation.cancel_everywhere
