"""The commands of the README work as they are written."""

import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import Any

import cyclopts
import pytest

from jobs.app import main

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def commands() -> list[list[str]]:
    """The arguments of each call of the program in the README."""
    text = README.read_text(encoding="utf-8")
    lines = re.findall(
        r"^uv run [\w.-]+ (.*(?:photos|--worker).*)$", text, re.MULTILINE
    )
    return [shlex.split(line.partition(" > ")[0]) for line in lines]


async def run(arguments: list[str]) -> int:
    """Run the program with arguments of the command line."""
    app = cyclopts.App(default_command=main, print_error=False, exit_on_error=False)
    command, bound, _ = app.parse_args(arguments)
    status: int = await command(*bound.args, **bound.kwargs)
    return status


def is_remote(command: list[str]) -> bool:
    return "--broker-url" in command


def read_report(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def photos(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `photos` with four files, in the working directory."""
    tree.rename(tree.with_name("photos"))
    monkeypatch.chdir(tree.parent)


@pytest.mark.usefixtures("photos")
@pytest.mark.asyncio
async def test_the_commands_for_one_machine_work(
    commands: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    local = [command for command in commands if not is_remote(command)]
    assert len(local) == 2
    for command in local:
        assert await run(command) == 0
        assert len(read_report(capsys)) == 4


@pytest.mark.asyncio
async def test_the_commands_for_many_machines_work(
    commands: list[list[str]],
    url: str,
    tree: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"nats://host": url, "/shared/photos": str(tree)}
    remote = [
        [places.get(word, word) for word in command]
        for command in commands
        if is_remote(command)
    ]
    worker_command, submit_command = remote
    worker = asyncio.create_task(run(worker_command))
    assert await run(submit_command) == 0
    assert len(read_report(capsys)) == 4
    worker.cancel()
    assert await worker == 0
