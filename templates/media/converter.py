"""The program of a worker process: converts one file after the other.

It reads jobs from stdin and writes results to stdout, one JSON object per line. It ends
when stdin ends, so it never outlives the program that started it.
"""

import importlib
import json
import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .plan import Settings

Message = dict[str, Any]

MAX_WARNINGS = 5  # per file
MAX_TEXT = 500  # characters of an error or a warning
NICENESS = 5
# How long a conversion may continue after stdin has ended, in seconds.
GRACE = 0.5


def main(arguments: Sequence[str]) -> None:
    """Convert files until stdin ends.

    `arguments` are the folder for unfinished files and the names of the modules that
    will be needed.
    """
    lower_priority()
    folder = Path(tempfile.mkdtemp(dir=arguments[0]))
    results = take_stdout()
    jobs: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    finished = threading.Event()
    reader = threading.Thread(
        target=read_jobs, args=(open_stdin(), jobs, finished, folder), daemon=True
    )
    reader.start()
    send(results, import_all(arguments[1:]))
    while True:
        job = jobs.get()
        if job is None:
            break
        send(results, convert(job, folder))
    finished.set()
    remove(folder)


def lower_priority() -> None:
    """Let the program's event loop go first where there are not enough CPU cores."""
    if sys.platform != "win32":
        os.nice(NICENESS)


def take_stdout() -> BinaryIO:
    """Return stdout for the results, and make it a copy of stderr for all others.

    A library in C that prints something would otherwise break the results.
    """
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return results


def open_stdin() -> BinaryIO:
    """Return stdin for a thread.

    Python closes `sys.stdin` when it ends, and aborts if a thread is reading from it.
    """
    return open(0, "rb", closefd=False)


def read_jobs(
    stdin: BinaryIO,
    jobs: "queue.SimpleQueue[Message | None]",
    finished: threading.Event,
    folder: Path,
) -> None:
    """Put the jobs from stdin into a queue, and end the process when stdin has ended.

    If the program is killed, stdin ends while a file is being converted. Then there is
    no use in the result, and this thread ends the process without waiting for it.
    """
    for line in stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    if not finished.wait(GRACE):
        remove(folder)
        os._exit(1)


def remove(folder: Path) -> None:
    """Remove the folder for unfinished files, as far as possible."""
    shutil.rmtree(folder, ignore_errors=True)


def import_all(names: Sequence[str]) -> Message:
    """Import modules of this package; return the first message to the program."""
    for name in names:
        # A library can raise anything while it is imported.
        try:
            import_module(name)
        except Exception as error:
            return {"error": describe(error)}
    return {"ready": True}


def import_module(name: str) -> Any:
    """Return a module of this package."""
    return importlib.import_module(f".{name}", __package__)


def send(results: BinaryIO, message: Message) -> None:
    """Write a message as a line of JSON."""
    results.write(json.dumps(message).encode() + b"\n")
    results.flush()


def convert(job: Message, folder: Path) -> Message:
    """Make the outputs of one file, each completely or not at all.

    Returns the details that the kind's module found out and what the libraries warned
    of, or the error. An output that exists is replaced only if all drafts are whole.
    """
    with collected_warnings() as texts:
        try:
            details = make_outputs(job, folder)
        # Decoders raise nearly any exception when a file is broken.
        except Exception as error:
            return {"error": describe(error)}
    return {"details": details, "warnings": unique(texts)}


def make_outputs(job: Message, folder: Path) -> Message:
    """Make the outputs of one file; return the details."""
    source = Path(job["source"])
    outputs = [Path(output) for output in job["outputs"]]
    settings = Settings(**job["settings"])
    module = import_module(job["module"])
    # If the file changes from now on, its outputs will count as out of date.
    time_ns = source.stat().st_mtime_ns
    with tempfile.TemporaryDirectory(dir=folder) as place:
        drafts = [
            Path(place, f"{number}{output.suffix}")
            for number, output in enumerate(outputs)
        ]
        details: Message = module.convert(source, drafts, settings)
        for draft in drafts:
            finish(draft, time_ns)
        for draft, output in zip(drafts, outputs, strict=True):
            output.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(output)
    return details


def finish(draft: Path, time_ns: int) -> None:
    """Set the modification time of a draft, and wait until the draft is on the disk.

    Without the wait, an output could be empty after a power failure. Some file systems
    find out only now that the disk is full. Raises OSError then.
    """
    os.utime(draft, ns=(time_ns, time_ns))
    with draft.open("r+b") as file:
        os.fsync(file.fileno())


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect Python warnings and logged warnings as texts.

    They are reported with the name of the file. Otherwise they would appear between
    other messages, and name none.
    """
    texts: list[str] = []
    handler = ListHandler(texts)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield texts
        texts.extend(str(warning.message) for warning in caught)
    finally:
        logging.getLogger().removeHandler(handler)


class ListHandler(logging.Handler):
    """Appends the messages of warnings to a list."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def unique(texts: list[str]) -> list[str]:
    """Return the first few different texts, shortened."""
    different = dict.fromkeys(text[:MAX_TEXT] for text in texts)
    return list(different)[:MAX_WARNINGS]


def describe(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, (OSError, ValueError)) and text:
        return text[:MAX_TEXT]
    return f"{type(error).__name__}: {text}"[:MAX_TEXT]


if __name__ == "__main__":
    main(sys.argv[1:])
