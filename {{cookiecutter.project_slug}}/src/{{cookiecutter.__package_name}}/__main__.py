"""The command line. This module owns the event loop, the logging and the signals.

The typed parameters of `main` in app.py are the options, and its docstring is the help
text. Each option can be set by an environment variable too. The exit status is:

- what `main` returns: 0 for success, 1 for a failure that stderr explains in one line,
- 1 if the output cannot be written,
- 2 if the arguments are not valid,
- 130 after Ctrl-C and 143 after SIGTERM. Both cancel `main`, so that it can clean up. A
  second signal ends the process at once.
"""

import asyncio
import io
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

import cyclopts
from cyclopts.config import Env

from .app import main

PROGRAM = "{{ cookiecutter.project_slug }}"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status.

    `arguments` are the command line's; by default, the arguments of this process.
    """
    prepare_output()
    logging.basicConfig(
        level=logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[StderrHandler()],
    )
    try:
        work = parse(arguments)
    except cyclopts.CycloptsError as error:
        message = " ".join(str(error).split())
        print(f"{PROGRAM}: {message} See --help.", file=sys.stderr)
        return 2
    except OSError as error:
        # Printing the help text has failed.
        report_output_error(error)
        return 1
    if work is None:
        return 0

    try:
        with original_signal_handlers(), asyncio.Runner() as runner:
            return runner.run(run_until_signal(work))
    except* OSError as group:
        # Also finds an error of a task, which is inside an ExceptionGroup.
        report_output_error(first_error(group))
    return 1


def parse(arguments: Sequence[str] | None) -> Coroutine[Any, Any, int] | None:
    """Return the call of `main` with the arguments, as a coroutine.

    Returns None after --help and --version, which are printed here.
    """
    app = cyclopts.App(
        name=PROGRAM,
        version=version(PROGRAM),
        config=Env(f"{__package__.upper()}_", command=False),
        print_error=False,
        exit_on_error=False,
    )
    app.default(main)
    command, bound, _ = app.parse_args(arguments)
    work = command(*bound.args, **bound.kwargs)
    if asyncio.iscoroutine(work):
        return work
    return None


# --- Signals


async def run_until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Return the result of `work`, or 128 + n if signal n cancelled it."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def handle(signum: int, _frame: FrameType | None) -> None:
        if received or task.done():
            os._exit(128 + signum)
        received.append(signum)
        loop.call_soon_threadsafe(task.cancel)

    for signum in SIGNALS:
        # Not loop.add_signal_handler: Windows does not have it.
        signal.signal(signum, handle)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            return 128 + received[0]
        raise


@contextmanager
def original_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers after the block.

    The block includes closing the event loop, which may wait for threads: until then, a
    second signal must still end the process.
    """
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


# --- Output


def prepare_output() -> None:
    """Make stdout and stderr usable if they are closed, piped or not in UTF-8."""
    if sys.stdout is None:
        # The replacement cannot be written to, so a program that prints fails.
        # Otherwise its results would be lost without an error.
        unwritable = os.open(os.devnull, os.O_RDONLY)
        sys.stdout = open(unwritable, "w", encoding="utf-8")  # noqa: SIM115 - kept open
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - kept open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The reader of a pipe receives each line at once. Characters that the
            # encoding lacks are written as escape sequences.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


class StderrHandler(logging.Handler):
    """Logs to stderr.

    It looks up `sys.stderr` for each message, because a progress bar replaces it with
    a stream that prints above the bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except OSError:
            # stderr has no reader. The program continues.
            pass


def first_error(group: BaseException) -> BaseException:
    """Return the first error in a group that may contain groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def report_output_error(error: BaseException) -> None:
    """Explain why the output could not be written, in one line on stderr."""
    # Python flushes stdout when it exits. The text in the buffer would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        # The reader has closed the pipe, as `| head` does. That is not an error.
        return
    print(f"{PROGRAM}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run())
