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
from importlib.metadata import version
from types import FrameType

import cyclopts
from cyclopts.config import Env

from .app import main

PROGRAM = "{{ cookiecutter.project_slug }}"
gc.freeze()  # imports are no garbage: looked through at Python's end, they would delay it


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program with ``arguments``, by default the process's own; return its exit status.

    0 is success and 1 a failure that ``main`` has explained; 2 means that the arguments were
    refused, and 128 + n that signal n stopped the program.
    """
    for stream in (sys.stdout, sys.stderr):
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
    except* BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


class _ToStderr(logging.Handler):
    """Logs to what stderr is at the time: under a progress bar, to the lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


async def _until_signalled(work: Coroutine[object, object, int]) -> int:
    """Return what ``work`` returns, or 128 + n if signal n has cancelled it."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    caught: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + signum)
        caught.append(signum)
        loop.call_soon_threadsafe(task.cancel)

    # signal.signal, not loop.add_signal_handler, which Windows does not have.
    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(run())
