{% filter replace("@pytest.mark.asyncio\n" if cookiecutter.asyncio_mode == "auto" else "", "") -%}
"""The program as its users meet it: a process with arguments, signals and an exit status."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from subprocess import PIPE, Popen

import pytest

import {{ cookiecutter.__package_name }}.__main__ as program

PACKAGE = "{{ cookiecutter.__package_name }}"
PROGRAM = "{{ cookiecutter.project_slug }}"
# `python -m` and the package, but for one thing: it has its imports behind it, which are most of
# a start, when its arguments arrive by stdin. So the programs of all tests can start side by side.
READY = f"""
import json, runpy, sys
import cyclopts, {PACKAGE}.app
sys.argv += json.loads(input())
runpy.run_module("{PACKAGE}", run_name="__main__", alter_sys=True)
"""
ENVIRONMENT = {**os.environ, "PYTHONUTF8": "1", "COLUMNS": "200"}
pytestmark = pytest.mark.deadline(60)  # a process starts slowly on a busy machine
Start = Callable[..., Popen[str]]


def get_ready() -> Popen[str]:
    """Start a program that waits for its arguments."""
    command = [sys.executable, "-c", READY]
    return Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, encoding="utf-8", env=ENVIRONMENT)


@pytest.fixture(scope="module")
def ready(request: pytest.FixtureRequest) -> Iterator[list[Popen[str]]]:
    """One for each test that starts the program; none if the tests are spread over workers."""
    users = sum("start" in getattr(test, "fixturenames", ()) for test in request.session.items)
    ready = [get_ready() for _ in range(0 if "PYTEST_XDIST_WORKER" in os.environ else users)]
    yield ready
    for process in ready:
        with process:
            process.kill()


@pytest.fixture
def start(ready: list[Popen[str]]) -> Iterator[Start]:
    """Start the program as often as a test likes; what still runs at the test's end is killed."""
    started: list[Popen[str]] = []

    def start(*arguments: str, reader: bool = True) -> Popen[str]:
        process = ready.pop() if ready else get_ready()
        started.append(process)
        if not reader and process.stdout:
            process.stdout.close()
        print(json.dumps(arguments), file=process.stdin, flush=True)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


async def ended(process: Popen[str]) -> tuple[int, str, str]:
    """Wait for the program's end; return its exit status, and its stdout and stderr."""
    stdout, stderr = await asyncio.to_thread(process.communicate)
    return process.returncode, stdout, stderr


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


@pytest.mark.asyncio
async def test_it_does_its_work(start: Start, working_args: list[str]) -> None:
    status, _, stderr = await ended(start(*working_args))
    assert status == 0, stderr
    assert_clean(stderr)


@pytest.mark.asyncio
async def test_a_reader_of_its_output_who_leaves_early_sees_no_traceback(
    start: Start, working_args: list[str]
) -> None:
    status, _, stderr = await ended(start(*working_args, reader=False))
    assert status == 1, stderr
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
    until_busy: Callable[[Popen[str]], Awaitable[object]],
    drains: bool,
    signum: signal.Signals,
) -> None:
    process = start(*busy_args)
    await until_busy(process)
    process.send_signal(signum)
    status, _, stderr = await ended(process)
    assert status == (0 if drains else 128 + signum), stderr
    assert_clean(stderr)
{% endfilter -%}
