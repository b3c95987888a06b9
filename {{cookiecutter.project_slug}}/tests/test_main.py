{% filter as_project_test -%}
"""The command line: options, exit status, signals and output.

Four tests start the program as a process; the others call `run` with another `main`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from subprocess import PIPE, Popen
from typing import IO

import pytest

import {{ cookiecutter.__package_name }}.__main__ as program

PACKAGE = "{{ cookiecutter.__package_name }}"
PROGRAM = "{{ cookiecutter.project_slug }}"

Start = Callable[..., Popen[str]]

# The start of a process is slow on a busy machine.
pytestmark = pytest.mark.deadline(60)

both_signals = pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"]
)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the program as a process; kills it after the test if it still runs."""
    with ExitStack() as processes:

        def start(*arguments: str) -> Popen[str]:
            process = Popen(
                [sys.executable, "-m", PACKAGE, *arguments],
                stdout=PIPE,
                stderr=PIPE,
                encoding="utf-8",
                env={**os.environ, "PYTHONUTF8": "1"},
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield start


async def finish(process: Popen[str]) -> tuple[int, str, str]:
    """Wait until the process ends; return its exit status, stdout and stderr."""
    stdout, stderr = await asyncio.to_thread(process.communicate)
    return process.returncode, stdout, stderr


def assert_clean(stderr: str) -> None:
    """Assert that Python reported no problem on stderr."""
    assert "Traceback" not in stderr
    assert "never retrieved" not in stderr
    assert "never awaited" not in stderr
    assert "was destroyed" not in stderr
    assert "Unclosed" not in stderr


# --- The program as a process


@pytest.mark.asyncio
async def test_it_works(start: Start, working_args: list[str]) -> None:
    status, _, stderr = await finish(start(*working_args))
    assert status == 0
    assert_clean(stderr)


@pytest.mark.asyncio
async def test_an_expected_failure_is_reported_in_one_line(
    start: Start, failing_args: list[str]
) -> None:
    status, _, stderr = await finish(start(*failing_args))
    assert status == 1
    lines = stderr.splitlines()
    errors = [line for line in lines if not line.startswith(("INFO ", "WARNING "))]
    assert len(errors) == 1
    assert_clean(stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@both_signals
@pytest.mark.asyncio
async def test_a_signal_stops_it_cleanly(
    start: Start,
    busy_args: list[str],
    until_busy: Callable[[IO[str], IO[str]], Awaitable[object]],
    drains: bool,
    signum: signal.Signals,
) -> None:
    process = start(*busy_args)
    assert process.stdout is not None
    assert process.stderr is not None
    await until_busy(process.stdout, process.stderr)
    process.send_signal(signum)
    status, _, stderr = await finish(process)
    assert status == (0 if drains else 128 + signum)
    assert_clean(stderr)


# --- `run` in this process, with another `main`


def test_help_shows_the_program_and_its_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.run(["--help"]) == 0
    stdout, stderr = capsys.readouterr()
    assert PROGRAM in stdout
    assert f"{PACKAGE.upper()}_" in stdout.replace("\n", "")
    assert stderr == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{version(PROGRAM)}\n"


def test_an_unknown_option_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.run(["--no-such-option"]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(f"{PROGRAM}: Unknown option: --no-such-option.")
    assert stderr.count("\n") == 1


@both_signals
def test_a_signal_cancels_main(
    monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    async def main() -> int:
        signal.raise_signal(signum)
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(program, "main", main)
    assert program.run([]) == 128 + signum


@pytest.mark.leaves_generators
def test_a_signal_while_the_loop_closes_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def generate() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            # This runs when the loop closes.
            signal.raise_signal(signal.SIGINT)

    generator = generate()

    async def main() -> int:
        await anext(generator)
        return 0

    statuses: list[int] = []
    monkeypatch.setattr(program, "main", main)
    monkeypatch.setattr(os, "_exit", statuses.append)
    program.run([])
    assert statuses == [128 + signal.SIGINT]


async def print_result() -> int:
    """A `main` that prints something."""
    print("result")
    return 0


def test_a_closed_pipe_ends_the_program_without_a_message(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read_end, write_end = os.pipe()
    # `| head` does the same when it has read enough.
    os.close(read_end)
    monkeypatch.setattr(program, "main", print_result)
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert program.run([]) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["main", "help"])
def test_a_full_disk_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(program, "main", print_result)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert program.run(arguments) == 1
    assert capfd.readouterr().err == f"{PROGRAM}: [Errno 28] No space left on device\n"


def test_a_result_that_cannot_be_printed_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "main", print_result)
    # Python sets this if the program is started with `>&-`.
    monkeypatch.setattr(sys, "stdout", None)
    assert program.run([]) == 1
    sys.stdout.close()
    assert capfd.readouterr().err == f"{PROGRAM}: [Errno 9] Bad file descriptor\n"


def test_it_runs_with_stderr_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "main", print_result)
    monkeypatch.setattr(sys, "stderr", None)
    assert program.run([]) == 0
    sys.stderr.close()


async def print_nothing() -> int:
    """A `main` that prints nothing."""
    return 0


def test_it_runs_with_stdout_and_stderr_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "main", print_nothing)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert program.run([]) == 0
    sys.stdout.close()
    sys.stderr.close()
{% endfilter -%}
