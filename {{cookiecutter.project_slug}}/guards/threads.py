"""Threads, executors and signal handlers that a test leaves behind."""

import signal
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from guards.places import Place, called_by_us, frames
from guards.record import Problem, Record, current_owner, our_line, owner, thread_owners

# The methods in which an executor starts a thread.
METHODS_OF_EXECUTORS = (
    "_adjust_thread_count",
    "_start_executor_manager_thread",
    "submit",
)
JOINING = 0.2  # seconds that a thread gets to end by itself
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
]


@dataclass(frozen=True)
class Start:
    """How a thread was started, or an executor created."""

    place: Place | None
    by_us: bool
    in_wider_fixture: bool


thread_starts: WeakKeyDictionary[threading.Thread, Start] = WeakKeyDictionary()
executors: WeakKeyDictionary[Executor, Start] = WeakKeyDictionary()


def install(patch: pytest.MonkeyPatch) -> None:
    note_threads(patch)
    note_executors(patch, ThreadPoolExecutor)
    note_executors(patch, ProcessPoolExecutor)


def note_threads(patch: pytest.MonkeyPatch) -> None:
    plain_start = threading.Thread.start

    def start(self: threading.Thread) -> None:
        executor = calling_executor(sys._getframe(1))
        if executor is None:
            thread_owners[self] = current_owner()
            thread_starts[self] = this_start()
        else:
            note_worker(self, executor)
        plain_start(self)

    patch.setattr(threading.Thread, "start", start)


def note_executors(patch: pytest.MonkeyPatch, kind: type[Executor]) -> None:
    plain_init: Any = kind.__init__

    def init(self: Executor, *args: Any, **options: Any) -> None:
        executors[self] = this_start()
        plain_init(self, *args, **options)

    patch.setattr(kind, "__init__", init)


def note_worker(thread: threading.Thread, executor: Executor) -> None:
    """Record a thread of an executor. It belongs to the creator of the executor."""
    start = executors.get(executor)
    if start is None or not start.by_us or start.in_wider_fixture:
        thread_owners[thread] = None
    else:
        thread_owners[thread] = current_owner()
        thread_starts[thread] = start


def this_start() -> Start:
    return Start(our_line(), called_by_us(), is_in_wider_fixture())


def is_in_wider_fixture() -> bool:
    """Say whether a fixture of a wider scope is being set up."""
    return Record.current is not None and owner.get(Record.current) is None


def calling_executor(frame: FrameType | None) -> Executor | None:
    """Return the executor that starts the thread, or None if it is plain code."""
    for caller in frames(frame):
        if caller.f_code.co_name not in METHODS_OF_EXECUTORS:
            return None
        candidate = caller.f_locals.get("self")
        if isinstance(candidate, Executor):
            return candidate
    return None


def report_threads(record: Record, before: set[threading.Thread]) -> None:
    """Report the threads that a test has started and that do not end."""
    if record.allows("leaves_threads"):
        return
    for thread in set(threading.enumerate()) - before:
        if is_leftover(record, thread):
            start = thread_starts.get(thread)
            place = None if start is None else start.place
            what = f"a thread left running: {thread!r}"
            record.add(Problem(what, place, "started"))


def is_leftover(record: Record, thread: threading.Thread) -> bool:
    if thread_owners.get(thread) is not record:
        return False
    if thread.name.startswith(("asyncio_", "uvloop_")):
        # A worker of a loop's own executor; closing the loop ends it.
        return False
    start = thread_starts[thread]
    if thread.daemon and not start.by_us:
        # A helper thread of a library, like the monitor of tqdm.
        return False
    thread.join(JOINING)
    return thread.is_alive()


def signal_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def restore_signal_handlers(record: Record, before: dict[int, Any]) -> None:
    """Report the signal handlers that a test has left installed, and remove them."""
    if record.allows("leaves_signal_handlers"):
        return
    for number, handler in signal_handlers().items():
        if handler is not before[number]:
            name = signal.Signals(number).name
            record.add(Problem(f"a signal handler left installed: {name}, {handler!r}"))
            signal.signal(number, before[number])
