"""The command line: the one place that owns the event loop, the logging and the signals.

The typed parameters of ``app.main`` are the options, its docstring is ``--help``, and each option
can be set by an environment variable too. ``main`` returns the exit status. Ctrl-C and SIGTERM
cancel it; a second signal ends the process at once.
"""

import asyncio
import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from importlib.metadata import version
from types import FrameType

import cyclopts
from cyclopts.config import Env

from .app import main

PROGRAM = "{{ cookiecutter.project_slug }}"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
gc.freeze()  # imports are no garbage: looked through at Python's end, they would delay it


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program with ``arguments``, by default the process's own; return its exit status.

    0 is success and 1 a failure that a line of stderr explains; 2 means that the arguments were
    refused, and 128 + n that signal n stopped the program.
    """
    for name in ("stdout", "stderr"):
        if not (stream := getattr(sys, name)):  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end
        if isinstance(stream, io.TextIOWrapper):  # pipes get each line at once, in any encoding
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    form = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=[_ToStderr()])
    cli = cyclopts.App(
        name=PROGRAM,
        version=version(PROGRAM),
        config=Env(f"{__package__.upper()}_", command=False),
        print_error=False,
        exit_on_error=False,
    )
    cli.default(main)
    status = 1
    handlers = {n: signal.getsignal(n) for n in SIGNALS}
    try:
        command, bound, _ = cli.parse_args(arguments)
        work = command(*bound.args, **bound.kwargs)
        if not asyncio.iscoroutine(work):  # --help and --version have printed
            return 0
        with asyncio.Runner() as runner:
            status = runner.run(_until_signalled(work))
    except* cyclopts.CycloptsError as refused:
        (error,) = refused.exceptions
        print(f"{PROGRAM}: {' '.join(str(error).split())} See --help.", file=sys.stderr)
        status = 2
    except* OSError as failures:
        failure: BaseException = failures
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        # What stdout has not got rid of would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(failure, BrokenPipeError):  # a reader that has left, as `| head` does
            print(f"{PROGRAM}: {failure}", file=sys.stderr)
    finally:  # not before the loop is closed, which waits for its threads
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status


class _ToStderr(logging.Handler):
    """Logs to what stderr is at the time: under a progress bar, to the lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # nobody reads it: no reason to stop the work
            print(self.format(record), file=sys.stderr)


async def _until_signalled(work: Coroutine[object, object, int]) -> int:
    """Return what ``work`` returns, or 128 + n if signal n has cancelled it."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    caught: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        if caught or task.done():
            os._exit(128 + signum)
        caught.append(signum)
        loop.call_soon_threadsafe(task.cancel)

    for number in SIGNALS:
        # Not loop.add_signal_handler, which Windows does not have.
        signal.signal(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]


if __name__ == "__main__":
    sys.exit(run())
