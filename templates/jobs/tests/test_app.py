"""The program: a line for each file, and one line for what went wrong."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import cyclopts
import pytest
from pytest_mock import MockerFixture

from jobs.app import main
from jobs.tasks import TASKS, describe

Printed = tuple[dict[str, Any], str]

A_TXT = sha256(b"a.txt" * 1000).hexdigest()
B_PNG = sha256(b"b.png" * 1000).hexdigest()
C = sha256(b"deep/c" * 1000).hexdigest()
NOTHING = sha256().hexdigest()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], Printed]:
    """Returns the lines on stdout by their path, and the text on stderr."""

    def printed() -> Printed:
        stdout, stderr = capsys.readouterr()
        lines = [json.loads(line) for line in stdout.splitlines()]
        by_path = {line.pop("path"): line for line in lines}
        assert len(lines) == len(by_path)
        return by_path, stderr

    return printed


def assert_complete(lines: dict[str, Any]) -> None:
    """Assert that the lines describe all files of the fixture `tree`."""
    assert lines == {
        "a.txt": {"size": 5000, "sha256": A_TXT},
        "b.png": {"size": 5000, "sha256": B_PNG},
        "deep/c": {"size": 6000, "sha256": C},
        "empty": {"size": 0, "sha256": NOTHING},
    }


def parse(*arguments: str) -> object:
    """Parse arguments as the command line does."""
    app = cyclopts.App(default_command=main, print_error=False, exit_on_error=False)
    return app.parse_args(arguments)


# --- On one machine


@pytest.mark.asyncio
async def test_every_file_is_described(
    tree: Path, printed: Callable[[], Printed]
) -> None:
    assert await main(tree) == 0
    lines, stderr = printed()
    assert_complete(lines)
    assert stderr == ""


@pytest.mark.asyncio
async def test_an_empty_folder_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(tmp_path) == 0
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def odd_tree(tree: Path) -> Path:
    """The files of `tree`, and a pipe, a broken link and a loop."""
    if sys.platform == "win32":
        pytest.skip("Windows has no named pipes in folders")
    os.mkfifo(tree / "pipe")
    (tree / "broken link").symlink_to(tree / "missing")
    (tree / "deep" / "loop").symlink_to(tree)
    return tree


@pytest.mark.asyncio
async def test_only_files_are_read(
    odd_tree: Path, printed: Callable[[], Printed]
) -> None:
    assert await main(odd_tree) == 0
    assert_complete(printed()[0])


@pytest.mark.parametrize("name", ["ä 猫", "line\nbreak", "quo\"te's", "-rf"])
@pytest.mark.asyncio
async def test_odd_names_stay_as_they_are(
    tmp_path: Path, printed: Callable[[], Printed], name: str
) -> None:
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system does not allow such names")
    assert await main(tmp_path) == 0
    assert list(printed()[0]) == [name]


@pytest.mark.asyncio
async def test_a_missing_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "missing"
    assert await main(folder) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(f"1 failed; the first one is {folder}: No such file")
    assert stderr.count("\n") == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_file_that_cannot_be_read_is_named_and_the_others_are_described(
    tree: Path,
    printed: Callable[[], Printed],
    mocker: MockerFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def refuse_one(path: str) -> dict[str, int | str]:
        if path.endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return await describe(path)

    mocker.patch.dict(TASKS, describe=refuse_one)
    assert await main(tree) == 1
    lines, stderr = printed()
    error = "PermissionError: [Errno 13] Permission denied"
    assert len(lines) == 4
    assert lines["b.png"] == {"error": error}
    assert stderr == f"1 failed; the first one is {tree / 'b.png'}: {error}\n"
    assert "Traceback" not in caplog.text


@pytest.mark.asyncio
async def test_a_small_tree_logs_one_line(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await main(tree) == 0
    assert [record.message for record in caplog.records] == ["4 of 4 files"]


@pytest.mark.asyncio
async def test_the_checksum_and_the_size_are_those_of_the_same_bytes(
    tmp_path: Path,
) -> None:
    content = b"x" * 3_000_000
    path = tmp_path / "large"
    await asyncio.to_thread(path.write_bytes, content)
    checksum = sha256(content).hexdigest()
    assert await describe(str(path)) == {"size": 3_000_000, "sha256": checksum}


@pytest.mark.parametrize("option", ["--timeout", "--redeliver", "--reconnect-timeout"])
@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan"])
def test_a_time_that_no_broker_can_keep_is_refused(option: str, seconds: str) -> None:
    with pytest.raises(cyclopts.ValidationError, match=f"{option}"):
        parse(option, seconds)


@pytest.mark.parametrize("option", ["--attempts", "--concurrency"])
def test_a_limit_that_is_not_positive_is_refused(option: str) -> None:
    with pytest.raises(cyclopts.ValidationError, match=f"{option}"):
        parse(option, "0")


# --- With a broker


@pytest.mark.asyncio
async def test_workers_describe_what_one_machine_would(
    url: str, tree: Path, printed: Callable[[], Printed]
) -> None:
    workers = [asyncio.create_task(main(worker=True, broker_url=url)) for _ in range(2)]
    assert await main(tree, broker_url=url) == 0
    assert_complete(printed()[0])
    for worker in workers:
        worker.cancel()
        assert await worker == 0


@pytest.mark.asyncio
async def test_a_worker_in_memory_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await main(worker=True) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == (
        "no other program can reach memory://, so a worker needs --broker-url\n"
    )


@pytest.mark.parametrize("scheme", ["nats", "redis"])
@pytest.mark.parametrize("worker", [False, True], ids=["submitter", "worker"])
@pytest.mark.asyncio
async def test_a_broker_that_is_not_there_is_one_line_without_the_password(
    scheme: str, worker: bool, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker_url = f"{scheme}://me:secret@127.0.0.1:1"
    assert await main(tree, worker=worker, broker_url=broker_url) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(f"no broker at {scheme}://me:***@127.0.0.1:1: ")
    assert stderr.count("\n") == 1
    assert "secret" not in stderr


@pytest.mark.parametrize("scheme", ["nats", "redis"])
@pytest.mark.asyncio
async def test_a_worker_can_be_stopped_while_it_connects(scheme: str) -> None:
    accepted = asyncio.Event()

    async def say_nothing(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        worker = asyncio.create_task(
            main(worker=True, broker_url=f"{scheme}://{host}:{port}")
        )
        await accepted.wait()
        worker.cancel()
        assert await worker == 0


@pytest.mark.asyncio
async def test_a_worker_can_be_stopped_before_it_connects() -> None:
    worker = asyncio.create_task(main(worker=True, broker_url="nats://127.0.0.1:1"))
    await asyncio.sleep(0)
    worker.cancel()
    assert await worker == 0


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_a_broker_that_does_not_come_back_is_one_line(
    server: Any, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(server.start)
    running = asyncio.create_task(
        main(tree, broker_url=server.url, reconnect_timeout=1)
    )
    await server.wait_for_jobs(4)
    await asyncio.to_thread(server.kill)
    assert await running == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("the broker has not been available for 1 s: ")
    assert stderr.count("\n") == 1
