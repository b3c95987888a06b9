{% filter replace("@pytest.mark.asyncio\n" if cookiecutter.asyncio_mode == "auto" else "", "") -%}
"""The program as its users meet it: a process with arguments, signals and an exit status."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import version
from typing import Protocol

import pytest
import pytest_asyncio

import {{ cookiecutter.__package_name }}.__main__ as program

PACKAGE = "{{ cookiecutter.__package_name }}"
PROGRAM = "{{ cookiecutter.project_slug }}"
COMMAND = [sys.executable, "-m", PACKAGE]
ENVIRONMENT = {**os.environ, "PYTHONUTF8": "1", "COLUMNS": "200"}
pytestmark = pytest.mark.deadline(60)  # a process starts slowly on a busy machine


class Start(Protocol):
    """Starts the program; nobody reads its output if ``reader`` is False."""

    async def __call__(self, *arguments: str, reader: bool = True) -> Process: ...


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Start the program as often as a test likes; what still runs at the test's end is killed."""
    started: list[Process] = []

    async def start(*arguments: str, reader: bool = True) -> Process:
        nobody, stdout = os.pipe()
        os.close(nobody)
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *arguments),
            stdout=PIPE if reader else stdout,
            stderr=PIPE,
            env=ENVIRONMENT,
        )
        os.close(stdout)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Process) -> tuple[int, str, str]:
    """Wait for the program's end; return its exit status, and its stdout and stderr as text."""
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


def assert_clean(stderr: str) -> None:
    """Assert that nothing went wrong behind the scenes."""
    for trouble in ("Traceback", "never retrieved", "never awaited", "was destroyed", "Unclosed"):
        assert trouble not in stderr, stderr


@pytest.fixture(scope="module", autouse=True)
def no_work() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The program asked for what needs no work: it starts beside the other tests, to be quick."""
    no_work = {
        option: subprocess.Popen(
            [*COMMAND, option], env=ENVIRONMENT, stdout=PIPE, stderr=PIPE, encoding="utf-8"
        )
        for option in ("--help", "--no-such-option")
    }
    yield no_work
    for process in no_work.values():
        process.kill()
        process.communicate()


def test_help_shows_the_program_and_its_options(no_work: dict[str, subprocess.Popen[str]]) -> None:
    stdout, stderr = no_work["--help"].communicate()
    assert (no_work["--help"].returncode, stderr) == (0, "")
    assert PROGRAM in stdout
    assert f"{PACKAGE.upper()}_" in stdout


def test_a_bad_option_is_refused_in_one_line(no_work: dict[str, subprocess.Popen[str]]) -> None:
    stdout, stderr = no_work["--no-such-option"].communicate()
    assert (no_work["--no-such-option"].returncode, stdout) == (2, "")
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


@pytest.mark.asyncio
async def test_it_does_its_work(start: Start, working_args: list[str]) -> None:
    status, _, stderr = await ended(await start(*working_args))
    assert status == 0, stderr
    assert_clean(stderr)


@pytest.mark.asyncio
async def test_a_reader_of_its_output_who_leaves_early_sees_no_traceback(
    start: Start, working_args: list[str]
) -> None:
    process = await start(*working_args, reader=False)
    assert process.stderr is not None
    stderr = (await process.stderr.read()).decode()
    assert await process.wait() == 1, stderr
    assert_clean(stderr)


@pytest.mark.asyncio
async def test_an_expected_failure_is_told_in_one_line(
    start: Start, failing_args: list[str]
) -> None:
    status, _, stderr = await ended(await start(*failing_args))
    told = [line for line in stderr.splitlines() if not line.startswith(("INFO ", "WARNING "))]
    assert (status, len(told)) == (1, 1), stderr
    assert_clean(stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these to a process")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
@pytest.mark.asyncio
async def test_a_signal_in_the_middle_of_the_work_stops_it_cleanly(
    start: Start,
    busy_args: list[str],
    until_busy: Callable[[Process], Awaitable[object]],
    drains: bool,
    signum: signal.Signals,
) -> None:
    process = await start(*busy_args)
    await until_busy(process)
    process.send_signal(signum)
    status, _, stderr = await ended(process)
    assert status == (0 if drains else 128 + signum), stderr
    assert_clean(stderr)
{% endfilter -%}
