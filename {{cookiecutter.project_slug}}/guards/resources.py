"""Sockets, files, processes and clients that are left open.

Python warns when it collects such an object. The guards turn the warning into a
message that begins with the line that has opened the object.
"""

import gc
import inspect
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from guards.places import Place, Whose, whose
from guards.record import Problem, Record, our_line

# The line that has opened a socket, by its file descriptor.
sockets: dict[int, Place | None] = {}
# The line that has started a process, by the id of the process.
processes: dict[int, Place | None] = {}
# The line that has created a client of aiohttp, by the id of the object. A weak
# reference would be cleared before the warning.
clients: dict[int, Place | None] = {}


def install(patch: pytest.MonkeyPatch) -> None:
    note_lines_of_sockets(patch)
    note_lines_of_processes(patch)
    patch.setattr(sys, "unraisablehook", UnraisableHook(sys.unraisablehook))
    # With this, Python's warning about a coroutine that is never awaited contains the
    # calls that have led to it, even for a coroutine of a mock.
    sys.set_coroutine_origin_tracking_depth(8)


def note_lines_of_sockets(patch: pytest.MonkeyPatch) -> None:
    plain_init = socket.socket.__init__

    def init(self: socket.socket, *args: Any, **options: Any) -> None:
        plain_init(self, *args, **options)
        sockets[self.fileno()] = our_line()

    patch.setattr(socket.socket, "__init__", init)


def note_lines_of_processes(patch: pytest.MonkeyPatch) -> None:
    plain_init = subprocess.Popen.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        plain_init(self, *args, **options)
        processes[self.pid] = our_line()

    patch.setattr(subprocess.Popen, "__init__", init)


def note_lines_of_clients(patch: pytest.MonkeyPatch) -> None:
    """Record where sessions of aiohttp are created, if the tests have imported it."""
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is None:
        return
    client: Any = aiohttp.ClientSession
    plain_init = client.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        clients[id(self)] = our_line()
        plain_init(self, *args, **options)

    patch.setattr(client, "__init__", init)


def opened_at(text: str, thing: Any) -> Place | None:
    """Return the line that has opened an object, from the text of its warning.

    The object may be closed now, and then has no file descriptor.
    """
    if type(thing).__name__ == "ClientSession":
        return clients.get(id(thing))
    descriptor = re.search(r"\bfd=(\d+)", text)
    if descriptor is not None:
        return sockets.get(int(descriptor[1]))
    process = re.search(r"\b(?:pid=|subprocess )(\d+)", text)
    if process is not None:
        return processes.get(int(process[1]))
    return None


def report_what_is_left_open(clean_up: Callable[[], object]) -> None:
    """Call a function during which Python warns, and report the warnings.

    The project's filters are applied afterwards, and decide which warnings are errors.
    An error in the middle of the clean-up would interrupt it, and uvloop would hang.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clean_up()
    for warning in caught:
        report_warning(warning)


def report_warning(caught: warnings.WarningMessage) -> None:
    try:
        warnings.warn_explicit(
            message=caught.message,
            category=caught.category,
            filename=caught.filename,
            lineno=caught.lineno,
            source=caught.source,
        )
    except Warning as error:
        if Record.current is None:
            raise
        Record.current.add(problem(error, caught.source))


def problem(warning: BaseException, culprit: Any) -> Problem:
    """Describe a warning about an object that is being collected."""
    if inspect.iscoroutine(culprit):
        # Python adds all calls that have led to it; the first line is enough.
        text = str(warning).partition("\n")[0]
        return Problem(text, created_at(culprit), "created")
    return Problem(str(warning), opened_at(str(warning), culprit), "opened")


def report_if_never_awaited(coroutine: Any) -> None:
    """Report a coroutine that has not begun, and close it.

    pytest keeps the values of fixtures until the test is over, so Python's own warning
    would come during the next test.
    """
    if inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
        return
    text = f"coroutine '{coroutine.__qualname__}' was never awaited"
    place = created_at(coroutine)
    coroutine.close()
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=1)
    except RuntimeWarning:
        if Record.current is None:
            raise
        Record.current.add(Problem(text, place, "created"))


def created_at(coroutine: Any) -> Place | None:
    """Return the line of the project that has called a coroutine function."""
    for file, line, function in coroutine.cr_origin or ():
        if whose(file) is Whose.OURS:
            return Place(file, line, function)
    return None


def collections() -> list[int]:
    """Return how often each generation of objects has been collected so far."""
    return [generation["collections"] for generation in gc.get_stats()]


def collect_garbage(before: list[int], everything: bool) -> None:
    """Collect the objects that a test has left, so that Python warns in this test.

    The collections take most of the time of the guards. So they skip the objects that
    are older than the test, unless `everything` is true. `before` is the result of
    `collections()` when the test began: objects that have survived a collection since
    then are in the next generation.
    """
    youngest, middle, _oldest = collections()
    if everything or middle > before[1]:
        generation = 2
    elif youngest == before[0]:
        generation = 0
    elif sys.version_info >= (3, 14):
        # Python 3.14 has no middle generation.
        generation = 2
    else:
        generation = 1
    report_what_is_left_open(partial(gc.collect, generation))


class UnraisableHook:
    """Reports warnings that are errors, but occur while an object is collected.

    Python cannot raise them there, and pytest would report them after forty lines of
    its own code. All other errors are passed on to pytest.
    """

    def __init__(self, next_hook: Callable[[Any], object]) -> None:
        self.next_hook = next_hook

    def __call__(self, unraisable: Any) -> None:
        record = Record.current
        error = unraisable.exc_value
        if record is None or not isinstance(error, Warning):
            self.next_hook(unraisable)
        else:
            record.add(problem(error, collected(unraisable)))


def collected(unraisable: Any) -> Any:
    """Return the object that is being collected.

    For an object of a Python class it is in the frame of its method `__del__`.
    """
    step = unraisable.exc_traceback
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_name == "__del__":
            return step.tb_frame.f_locals[code.co_varnames[0]]
        step = step.tb_next
    return unraisable.object
