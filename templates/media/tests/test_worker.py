"""A worker: a real process that is started, used, killed and closed."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from media import worker as worker_module
from media.plan import Job, Settings, make_plan
from media.worker import (
    Worker,
    WorkerError,
    describe_status,
)

Make = Callable[..., Path]

SETTINGS = Settings(size=40)

# Processes start slowly on a busy machine.
pytestmark = pytest.mark.deadline(60)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The folder for unfinished files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


async def names_in(folder: Path) -> list[str]:
    """Return the names of the files and folders in a folder."""
    paths = await asyncio.to_thread(lambda: list(folder.rglob("*")))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


async def jobs_for(source: Path, to: Path) -> list[Job]:
    """Return the jobs for a folder."""
    plan = await asyncio.to_thread(make_plan, source, to, SETTINGS)
    return plan.jobs


async def cancel(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])


async def wait_until_ended(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    if sys.platform != "linux":
        pytest.skip("only Linux can do this")
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@pytest.mark.asyncio
async def test_it_converts_files_one_after_the_other(
    draw: Make, source: Path, to: Path, scratch: Path
) -> None:
    await asyncio.to_thread(draw, "a.png")
    await asyncio.to_thread(draw, "c.png")
    await asyncio.to_thread((source / "b.png").write_bytes, b"no picture")
    jobs = await jobs_for(source, to)
    async with Worker(scratch, SETTINGS, ["pictures"]) as worker:
        await worker.start()
        results = [await worker.convert(job) for job in jobs]
    assert [result.error is None for result in results] == [True, False, True]
    assert results[0].details["width"] == 40
    assert results[0].outputs == jobs[0].outputs
    assert len(await names_in(to)) == 4


@pytest.mark.asyncio
async def test_a_closed_worker_has_ended_and_removed_its_folder(scratch: Path) -> None:
    worker = Worker(scratch, SETTINGS)
    await worker.start()
    process = worker.process
    assert len(await names_in(scratch)) == 1
    await worker.close()
    assert process.returncode == 0
    assert not worker.is_running
    with pytest.raises(RuntimeError):
        _ = worker.process
    assert await names_in(scratch) == []


@pytest.mark.asyncio
async def test_a_worker_can_be_started_again_after_kill(scratch: Path) -> None:
    async with Worker(scratch, SETTINGS) as worker:
        await worker.start()
        first = worker.process.pid
        await worker.kill()
        assert not worker.is_running
        await worker.start()
        assert worker.process.pid != first


@pytest.mark.asyncio
async def test_kill_and_close_without_a_process_do_nothing(scratch: Path) -> None:
    worker = Worker(scratch, SETTINGS)
    await worker.kill()
    await worker.close()
    assert not worker.is_running


@pytest.mark.asyncio
async def test_a_process_that_is_killed_in_the_middle_is_an_error(
    gate: Any, source: Path, to: Path, scratch: Path
) -> None:
    [job] = await jobs_for(source, to)
    async with Worker(scratch, SETTINGS, ["pictures"]) as worker:
        await worker.start()
        run = asyncio.create_task(worker.convert(job))
        async with gate(run):
            worker.process.kill()
            with pytest.raises(WorkerError, match="was ended by SIGKILL"):
                await run


@pytest.mark.asyncio
async def test_a_process_that_has_ended_before_a_job_is_an_error(
    draw: Make, source: Path, to: Path, scratch: Path
) -> None:
    await asyncio.to_thread(draw, "cat.png")
    [job] = await jobs_for(source, to)
    async with Worker(scratch, SETTINGS) as worker:
        await worker.start()
        worker.process.kill()
        await worker.process.wait()
        with pytest.raises(WorkerError):
            await worker.convert(job)


@pytest.mark.asyncio
async def test_a_module_that_cannot_be_imported_is_an_error(scratch: Path) -> None:
    worker = Worker(scratch, SETTINGS, ["no_such_module"])
    with pytest.raises(WorkerError, match="cannot start: ModuleNotFoundError"):
        await worker.start()
    await worker.kill()


@pytest.mark.asyncio
async def test_a_process_that_cannot_start_is_an_error(scratch: Path) -> None:
    worker = Worker(scratch / "nowhere", SETTINGS)
    with pytest.raises(WorkerError, match="ended with status 1"):
        await worker.start()
    await worker.kill()


@pytest.mark.asyncio
async def test_nothing_is_imported_from_the_current_folder(
    scratch: Path, current_folder: Path
) -> None:
    await asyncio.to_thread((current_folder / "queue.py").write_text, "1 / 0")
    async with Worker(scratch, SETTINGS) as worker:
        await worker.start()


@pytest.mark.asyncio
async def test_a_process_that_is_not_ready_in_time_is_an_error(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "START_TIMEOUT", 0.0)
    worker = Worker(scratch, SETTINGS)
    with pytest.raises(WorkerError, match="not ready within 0 s"):
        await worker.start()
    await worker.kill()


@pytest.mark.asyncio
async def test_kill_ends_a_process_that_is_busy(
    gate: Any, source: Path, to: Path, scratch: Path
) -> None:
    [job] = await jobs_for(source, to)
    worker = Worker(scratch, SETTINGS, ["pictures"])
    await worker.start()
    process = worker.process
    run = asyncio.create_task(worker.convert(job))
    async with gate(run):
        await cancel(run)
        await worker.kill()
        assert process.returncode == -9


@pytest.mark.asyncio
async def test_close_kills_a_process_that_does_not_end(
    gate: Any,
    source: Path,
    to: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "CLOSE_TIMEOUT", 0.0)
    [job] = await jobs_for(source, to)
    worker = Worker(scratch, SETTINGS, ["pictures"])
    await worker.start()
    process = worker.process
    run = asyncio.create_task(worker.convert(job))
    async with gate(run):
        await cancel(run)
        await worker.close()
        assert process.returncode == -9


@pytest.mark.asyncio
async def test_cancelled_anywhere_it_leaves_no_process(
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    cancel_everywhere: Callable[..., Any],
) -> None:
    processes: list[Process] = []
    create = asyncio.create_subprocess_exec

    async def create_and_keep(*args: Any, **options: Any) -> Process:
        process = await create(*args, **options)
        processes.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", create_and_keep)

    async def run() -> None:
        async with Worker(scratch, SETTINGS) as worker:
            await worker.start()

    def check() -> None:
        assert all(process.returncode is not None for process in processes)

    assert await cancel_everywhere(run, check) >= 3
    assert len(processes) >= 3


@pytest.mark.asyncio
async def test_ctrl_c_in_the_terminal_does_not_reach_the_worker(scratch: Path) -> None:
    """A terminal sends Ctrl-C to the process group of the program."""
    if sys.platform == "win32":
        pytest.skip("Windows has no such process groups")
    async with Worker(scratch, SETTINGS) as worker:
        await worker.start()
        assert os.getpgid(worker.process.pid) != os.getpgid(0)


PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from {package}.plan import Settings, make_plan
from {package}.worker import Worker

async def main():
    source, to, scratch = map(Path, sys.argv[1:])
    settings = Settings(size=40)
    worker = Worker(scratch, settings, ["pictures"])
    await worker.start()
    print(worker.process.pid, flush=True)
    [job] = make_plan(source, to, settings).jobs
    await worker.convert(job)

asyncio.run(main())
"""


@asynccontextmanager
async def program(*arguments: Path) -> AsyncIterator[Process]:
    """Run a program with a worker as a process of its own; kill it afterwards."""
    source = PROGRAM.format(package=worker_module.__package__)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        source,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.stdout.read()
        await process.wait()


@pytest.mark.asyncio
async def test_when_the_program_is_killed_a_busy_worker_ends_and_cleans_up(
    gate: Any, source: Path, to: Path, scratch: Path
) -> None:
    async with program(source, to, scratch) as process:
        assert process.stdout is not None
        pid = int(await process.stdout.readline())
        waiting = asyncio.create_task(process.wait())
        async with gate(waiting):
            assert await names_in(scratch)
            ended = asyncio.create_task(wait_until_ended(pid))
            # Let the task open the process before the process can end.
            await asyncio.sleep(0)
            process.kill()
            await waiting
            # The worker notices by itself that its stdin has ended.
            await ended
    assert await names_in(scratch) == []


def test_the_end_of_a_process_is_described() -> None:
    assert describe_status(3) == "ended with status 3"
    assert describe_status(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert describe_status(-200) == "was ended by signal 200"


def test_importing_the_program_loads_no_decoder() -> None:
    """Only the processes need them, and they take seconds to import."""
    import subprocess

    heavy = [
        "numpy",
        "scipy",
        "cv2",
        "pyvips",
        "PIL",
        "soundfile",
        "mutagen",
        "pyloudnorm",
    ]
    program = (
        f"import json, sys, {worker_module.__package__}.app; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert not set(heavy) & set(json.loads(done.stdout))
