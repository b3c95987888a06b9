{% filter replace("@pytest.mark.asyncio\n" if cookiecutter.asyncio_mode == "auto" else "", "") -%}
"""The program as its users meet it: a process with arguments, signals and an exit status."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from subprocess import PIPE, STDOUT, Popen
from typing import IO

import pytest

import {{ cookiecutter.__package_name }}.__main__ as program

PACKAGE = "{{ cookiecutter.__package_name }}"
PROGRAM = "{{ cookiecutter.project_slug }}"
ENVIRONMENT = {**os.environ, "PYTHONUTF8": "1", "COLUMNS": "200"}
# Imports are most of a program's start. So one process has them behind it and forks for each start;
# a fork runs, and ends, as `python -m` would let the package run and end.
SERVER = f"""
import json, os, runpy, socket, sys
import cyclopts, {PACKAGE}.app

orders = socket.socket(fileno=0)
while True:
    arguments, fds, *_ = socket.recv_fds(orders, 2**16, 3)
    if not arguments:
        sys.exit()
    if not os.fork():
        break
    for fd in fds:
        os.close(fd)
stdout, stderr, report = fds
if program := os.fork():
    os.close(stdout), os.close(stderr)
    os.write(report, b"%d\\n" % program)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os.write(report, b"%d\\n" % status)
    os._exit(0)
for number, fd in enumerate([os.open(os.devnull, os.O_RDONLY), stdout, stderr]):
    os.dup2(fd, number)
sys.argv += json.loads(arguments)
runpy.run_module("{PACKAGE}", run_name="__main__", alter_sys=True)
"""
pytestmark = pytest.mark.deadline(60)  # a process starts slowly on a busy machine


@dataclass
class Process:
    """A running program: what it says, and what kills it and waits for its exit status."""

    pid: int
    stdout: IO[str]
    stderr: IO[str]
    kill: Callable[[], None]
    wait: Callable[[], int]


Start = Callable[..., Process]


@pytest.fixture(scope="module")
def launch() -> Iterator[Start]:
    """Starts the program: that process forks, or where nobody can fork, Python starts anew."""
    if sys.platform == "win32":

        def spawn(*arguments: str, unread: str) -> Process:
            command = [sys.executable, "-m", PACKAGE, *arguments]
            process = Popen(command, stdout=PIPE, stderr=PIPE, encoding="utf-8", env=ENVIRONMENT)
            assert process.stdout
            assert process.stderr
            if unread:
                getattr(process, unread).close()
            return Process(process.pid, process.stdout, process.stderr, process.kill, process.wait)

        yield spawn
        return

    def fork(*arguments: str, unread: str) -> Process:
        pipes = [os.pipe() for _ in ("stdout", "stderr", "report")]
        stdout, stderr, report = (os.fdopen(end, encoding="utf-8") for end, _ in pipes)
        if unread:
            {"stdout": stdout, "stderr": stderr}[unread].close()
        socket.send_fds(orders, [json.dumps(arguments).encode()], [end for _, end in pipes])
        for _, end in pipes:
            os.close(end)
        pid = report.readline()
        assert pid, server.communicate()[0]  # it tells why it cannot fork

        @cache
        def wait() -> int:
            with report:
                return int(report.readline())

        def kill() -> None:
            if not report.closed:  # else it is gone, and another process may have its number
                os.kill(int(pid), signal.SIGKILL)

        return Process(int(pid), stdout, stderr, kill, wait)

    orders, theirs = socket.socketpair()
    command, stdin = [sys.executable, "-c", SERVER], theirs.fileno()
    with Popen(command, stdin=stdin, stdout=PIPE, stderr=STDOUT, env=ENVIRONMENT) as server, orders:
        theirs.close()
        yield fork
        server.kill()


@pytest.fixture
def start(launch: Start) -> Iterator[Start]:
    """Start the program as often as a test likes; what still runs at the test's end is killed."""
    started: list[Process] = []

    def start(*arguments: str, unread: str = "") -> Process:
        started.append(launch(*arguments, unread=unread))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # it has ended by itself
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


async def ended(process: Process) -> tuple[int, str, str]:
    """Wait for the program's end; return its exit status, and its stdout and stderr."""

    def read(pipe: IO[str]) -> str:
        return "" if pipe.closed else pipe.read()

    pipes = (process.stdout, process.stderr)
    stdout, stderr = await asyncio.gather(*(asyncio.to_thread(read, pipe) for pipe in pipes))
    return await asyncio.to_thread(process.wait), stdout, stderr


def assert_clean(stderr: str) -> None:
    """Assert that nothing went wrong behind the scenes."""
    for trouble in ("Traceback", "never retrieved", "never awaited", "was destroyed", "Unclosed"):
        assert trouble not in stderr, stderr


@pytest.mark.asyncio
async def test_help_shows_the_program_and_its_options(start: Start) -> None:
    status, stdout, stderr = await ended(start("--help"))
    assert (status, stderr) == (0, "")
    assert PROGRAM in stdout
    assert f"{PACKAGE.upper()}_" in stdout


@pytest.mark.asyncio
async def test_a_bad_option_is_refused_in_one_line(start: Start) -> None:
    status, stdout, stderr = await ended(start("--no-such-option"))
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"{PROGRAM}: Unknown option: --no-such-option.")
    assert stderr.count("\n") == 1


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{version(PROGRAM)}\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_work_that_a_signal_cancels_ends_with_the_status_of_that_signal(
    monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    async def main() -> int:
        signal.raise_signal(signum)
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(program, "main", main)
    assert program.run([]) == 128 + signum


def test_a_signal_after_the_work_ends_the_program_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened() -> AsyncGenerator[None]:
        try:
            yield
        finally:  # when the loop closes
            signal.raise_signal(signal.SIGINT)

    async def main() -> int:
        await anext(generator)
        return 0

    generator, statuses = opened(), list[int]()
    monkeypatch.setattr(program, "main", main)
    monkeypatch.setattr(os, "_exit", statuses.append)
    program.run([])
    assert statuses == [128 + signal.SIGINT]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a file that is always full")
@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["work", "help"])
def test_a_full_disk_behind_its_output_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    async def main() -> int:
        print("result")
        return 0

    monkeypatch.setattr(program, "main", main)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert program.run(arguments) == 1
    _, told = capfd.readouterr()
    assert told == f"{PROGRAM}: [Errno 28] No space left on device\n"


def test_it_runs_where_output_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> int:
        return sys.stdout.isatty() or sys.stderr.isatty()

    monkeypatch.setattr(program, "main", main)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert program.run([]) == 0
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize(
    ("unread", "expected"),
    [("", 0), ("stderr", 0), ("stdout", 1)],
    ids=["both_read", "log_unread", "results_unread"],
)
@pytest.mark.asyncio
async def test_it_does_its_work_as_long_as_somebody_reads_the_results(
    start: Start, working_args: list[str], unread: str, expected: int
) -> None:
    status, _, stderr = await ended(start(*working_args, unread=unread))
    assert status == expected, stderr
    assert_clean(stderr)


@pytest.mark.asyncio
async def test_an_expected_failure_is_told_in_one_line(
    start: Start, failing_args: list[str]
) -> None:
    status, _, stderr = await ended(start(*failing_args))
    told = [line for line in stderr.splitlines() if not line.startswith(("INFO ", "WARNING "))]
    assert (status, len(told)) == (1, 1), stderr
    assert_clean(stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these to a process")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
@pytest.mark.asyncio
async def test_a_signal_in_the_middle_of_the_work_stops_it_cleanly(
    start: Start,
    busy_args: list[str],
    until_busy: Callable[[IO[str], IO[str]], Awaitable[object]],
    drains: bool,
    signum: signal.Signals,
) -> None:
    process = start(*busy_args)
    await until_busy(process.stdout, process.stderr)
    os.kill(process.pid, signum)
    status, _, stderr = await ended(process)
    assert status == (0 if drains else 128 + signum), stderr
    assert_clean(stderr)
{% endfilter -%}
