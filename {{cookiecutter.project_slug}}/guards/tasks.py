"""Tasks, timers and async generators that a test leaves in its loop; lost errors."""

import asyncio
from collections.abc import Callable
from types import AsyncGeneratorType
from typing import Any
from weakref import ref

from guards.places import (
    Place,
    called_by_us,
    innermost_of_ours,
    is_ours,
    shown,
    where_it_waits,
)
from guards.record import (
    Origin,
    Problem,
    Record,
    StartedGenerator,
    current_owner,
    our_line,
)

Task = asyncio.Task[Any]
Generator = AsyncGeneratorType[Any, Any]
MOMENT = 0.05  # seconds that a task gets to end by itself
CLOSING = 1.0  # seconds that a generator gets to be closed


def origin(loop: asyncio.AbstractEventLoop) -> Origin:
    return Origin(our_line(), called_by_us(), id(loop))


# --- Called by the loops while a test runs


def task_created(task: Task) -> None:
    record = current_owner()
    if record is not None:
        record.tasks[task] = origin(task.get_loop())


def timer_created(
    loop: asyncio.AbstractEventLoop,
    timer: asyncio.TimerHandle,
    callback: Callable[..., object],
) -> None:
    """Record a timer that calls a function of the project."""
    # The callback may be a partial, and its function may be a method.
    function = getattr(callback, "func", callback)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    record = current_owner()
    if record is not None and code is not None and is_ours(code):
        record.timers[timer] = origin(loop)


def generator_started(loop: asyncio.AbstractEventLoop, generator: Generator) -> None:
    """Record an async generator of the project, without keeping it alive."""
    if Record.current is not None:
        # A generator that has ended may have had the same id.
        Record.current.generators.pop(id(generator), None)
    record = current_owner()
    if record is not None and is_ours(generator.ag_code):
        started = StartedGenerator(ref(generator), origin(loop))
        record.generators[id(generator)] = started


def generator_dropped(generator: Generator) -> None:
    """Report a generator that has not ended, and to which no reference is left."""
    record = Record.current
    if record is None or record.allows("leaves_generators"):
        return
    started = record.generators.get(id(generator))
    if started is not None and is_ours(generator.ag_code):
        waits = where_it_waits(generator)
        report_generator(record, generator, started.origin, waits)


def error_lost(context: dict[str, Any]) -> bool:
    """Record an error that a loop would pass to its exception handler.

    Returns True if the loop need not handle it. This may be called in the middle of a
    garbage collection, so it only keeps the error. The message is made for the verdict.
    """
    record = Record.current
    if record is None or record.allows("loses_errors"):
        return False
    error = context.get("exception")
    message = str(context.get("message"))
    if isinstance(error, asyncio.CancelledError):
        # Some versions of asyncio.streams do this when one of their tasks is cancelled.
        return record.is_cleaned_up
    if error is None and message.startswith("Unclosed"):
        # aiohttp also warns about it, and that warning is reported.
        return False
    if id(context.get("asyncgen")) in record.reported_generators:
        # The generator has been reported. The loop cannot close it either.
        return True
    details = ""
    if error is None:
        details = "\n".join(f"  {key}: {value!r}" for key, value in context.items())
    record.add(Problem(f"a lost error: {message}", details=details, error=error))
    return True


# --- The end of a test


def unfinished_tasks(record: Record, loop: asyncio.AbstractEventLoop) -> set[Task]:
    """Return the tasks of a test that still run.

    A task that a library has started to run its own code does not count: it may live
    as long as the loop.
    """
    left = set()
    for task, task_origin in list(record.tasks.items()):
        if task.done() or task.get_loop() is not loop:
            continue
        code = getattr(task.get_coro(), "cr_code", None)
        if task_origin.by_us or (code is not None and is_ours(code)):
            left.add(task)
    return left


def waiting_timers(
    record: Record, loop: asyncio.AbstractEventLoop
) -> list[asyncio.TimerHandle]:
    left = []
    for timer, timer_origin in list(record.timers.items()):
        is_to_come = not timer.cancelled() and timer.when() > loop.time()
        if timer_origin.loop_id == id(loop) and is_to_come:
            left.append(timer)
    return left


def unfinished_generators(
    record: Record, loop: asyncio.AbstractEventLoop
) -> list[Generator]:
    """Return the generators of a test that have not ended and in which no task waits.

    A task that waits in a generator is reported itself, or is allowed to stay.
    """
    left = []
    for started in list(record.generators.values()):
        generator = started.reference()
        if generator is None or started.origin.loop_id != id(loop):
            continue
        if generator.ag_frame is not None and not generator.ag_running:
            left.append(generator)
    return left


def is_anything_left(record: Record, loop: asyncio.AbstractEventLoop) -> bool:
    if unfinished_tasks(record, loop) or unfinished_generators(record, loop):
        return True
    return bool(waiting_timers(record, loop))


async def clean_up(record: Record) -> None:
    """Report what a test has left in the running loop, and remove it.

    Does not report or remove what the test is allowed to leave.
    """
    loop = asyncio.get_running_loop()
    if not record.allows("leaves_tasks"):
        await cancel_tasks(record, loop)
    if not record.allows("leaves_generators"):
        for generator in unfinished_generators(record, loop):
            await close_generator(record, generator)
    if not record.allows("leaves_timers"):
        for timer in waiting_timers(record, loop):
            place = record.timers[timer].place
            record.add(Problem("a timer left in the loop", place, "created"))
            timer.cancel()


async def still_running(tasks: set[Task]) -> set[Task]:
    """Return the tasks that still run after a moment."""
    tasks = tasks - {asyncio.current_task()}
    if not tasks:
        return tasks
    _done, pending = await asyncio.wait(tasks, timeout=MOMENT)
    return pending


async def cancel_tasks(record: Record, loop: asyncio.AbstractEventLoop) -> None:
    left = await still_running(unfinished_tasks(record, loop))
    record.is_cleaned_up = True
    for task in left:
        if not closes_generator(task):
            report_task(record, task)
        task.cancel()
    await still_running(left)
    record.is_cleaned_up = False


def closes_generator(task: Task) -> bool:
    """Say whether a task was started by asyncio to close a dropped async generator.

    The generator itself has been reported.
    """
    return type(task.get_coro()).__name__ == "async_generator_athrow"


def report_task(record: Record, task: Task) -> None:
    coro = task.get_coro()
    name = getattr(coro, "__qualname__", repr(coro))
    what = f"a task left running: {task.get_name()}, {name}()"
    waits = where_it_waits(coro)
    details = f"  it waits at\n{shown(waits)}"
    created = record.tasks[task].place
    if created is None:
        record.add(Problem(what, innermost_of_ours(waits), "waiting", details))
    else:
        record.add(Problem(what, created, "created", details))


async def close_generator(record: Record, generator: Generator) -> None:
    waits = where_it_waits(generator)
    outcome = ""
    try:
        async with asyncio.timeout(CLOSING):
            await generator.aclose()
    except TimeoutError:
        outcome = f"\n  aclose() did not end within {CLOSING:g} s"
    except Exception as error:
        outcome = f"\n  aclose() failed: {error!r}"
    started = record.generators[id(generator)].origin
    report_generator(record, generator, started, waits, outcome)


def report_generator(
    record: Record,
    generator: Generator,
    started: Origin,
    waits: list[Place],
    outcome: str = "",
) -> None:
    record.reported_generators.add(id(generator))
    name = generator.__qualname__
    what = f"an async generator left unfinished: {name}()"
    details = f"  it has stopped at\n{shown(waits)}{outcome}"
    record.add(Problem(what, started.place, "started", details))


def report_failed_tasks(record: Record) -> None:
    """Report the tasks that have failed and whose error has not been retrieved.

    Python itself reports a task only when no reference to it is left.
    """
    if record.allows("loses_errors"):
        return
    for task in list(record.tasks):
        if not task.done() or task.cancelled():
            continue
        # This is private, but nothing else tells whether the error was retrieved.
        if getattr(task, "_log_traceback", False):
            what = "a lost error: Task exception was never retrieved"
            record.add(Problem(what, error=task.exception()))
