"""Blocking calls in the package: a sleep, a file, a socket, a subprocess, a lock.

blockbuster knows which functions of Python block, and replaces them. By itself it would
raise an error at the call. The guards record the call and let it happen: an error in
the middle of a lock or a thread would leave it unusable, and pytest could not exit. And
so an `except` cannot hide the call.
"""

import sys
from collections.abc import Callable
from typing import Any

from blockbuster import BlockBuster, BlockBusterFunction

from guards.places import Place, frames, is_guard, is_in_package, place_of, shown
from guards.record import Problem, Record

# These take microseconds, even on a slow disk, so they are not a bug.
QUICK = [
    "os.access",
    "os.getcwd",
    "os.readlink",
    "os.stat",
    "os.statvfs",
    "os.path.abspath",
    "os.path.islink",
    "os.path.ismount",
    "os.path.sameopenfile",
    "os.path.samestat",
]
MORE = [
    "os.system",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.gethostbyname_ex",
    "subprocess.Popen.wait",
]
# Functions in which blocking is accepted: the end of the file's path, and the name.
ACCEPTED = [
    ("logging/__init__.py", "handle"),
    ("importlib._bootstrap>", "_find_and_load"),
    # asyncpg looks for TLS files in the home folder each time it connects over TCP.
    ("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args"),
]


class BlockingCalls:
    """Replaces the functions that block, and restores them."""

    def __init__(self) -> None:
        self.are_watched = False
        self.blockbuster = BlockBuster()
        functions = self.blockbuster.functions
        for name in QUICK:
            functions.pop(name, None)
        for name in MORE:
            functions[name] = BlockBusterFunction(None, name)
        for function in functions.values():
            function.can_block_predicate = Check(function)

    def watch(self, record: Record) -> None:
        """Watch the calls of a test, unless it has opted out.

        Activating and deactivating takes time, so it is done only where it changes
        something.
        """
        if record.allows("blocks_loop"):
            self.stop()
        elif not self.are_watched:
            self.blockbuster.activate()
            self.are_watched = True

    def stop(self) -> None:
        if self.are_watched:
            self.blockbuster.deactivate()
            self.are_watched = False


class Check:
    """Called by blockbuster before a function that may block."""

    def __init__(self, function: BlockBusterFunction) -> None:
        self.name = function.full_name
        self.does_not_block: Callable[..., bool] = function.can_block_predicate
        self.accepted = list(ACCEPTED)
        for file, functions in function.can_block_functions:
            for name in functions:
                self.accepted.append((file, name))

    def __call__(self, *args: Any, **options: Any) -> bool:
        """Record the call if it is a bug.

        Returns True, so blockbuster lets the call happen.
        """
        record = Record.current
        if record is None:
            return True
        if not self.does_not_block(*args, **options):
            self.note(record)
        return True

    def note(self, record: Record) -> None:
        """Record the call if code of the package has led to it."""
        calls: list[Place] = []
        in_package = None
        # The innermost two frames are this function and its caller, the third is
        # blockbuster's.
        for frame in frames(sys._getframe(3)):
            file = frame.f_code.co_filename
            if self.is_accepted(file, frame.f_code.co_name):
                return
            if in_package is None and not is_guard(file):
                calls.append(place_of(frame))
                if is_in_package(file):
                    in_package = calls[-1]
        if in_package is not None and in_package not in record.blocking_lines:
            record.blocking_lines.add(in_package)
            calls.reverse()
            details = ""
            if len(calls) > 1:
                details = f"  which calls\n{shown(calls[1:])}"
            what = f"a blocking call to {self.name}"
            record.add(Problem(what, in_package, details=details))

    def is_accepted(self, file: str, function: str) -> bool:
        file = file.replace("\\", "/")
        for accepted_file, accepted_function in self.accepted:
            if function == accepted_function and file.endswith(accepted_file):
                return True
        return False
