"""Fixtures and helpers of the template's tests.

They render a project, install it in an environment of its own, and run commands in it.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pytest

import tools
from tools import pythons

TEMPLATE = tools.TEMPLATE
QUESTIONS: dict[str, Any] = json.loads(
    (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
)
STARTERS: list[str] = QUESTIONS["starter"]
MODES: list[str] = QUESTIONS["asyncio_mode"]
# Options of git for a commit in a test.
AUTHOR = (
    *("-c", "user.name=t"),
    *("-c", "user.email=t@example.com"),
    *("-c", "commit.gpgsign=false"),
)


class Render(Protocol):
    """Renders a project, and returns its folder.

    A question without an answer gets the template's default.
    """

    def __call__(self, **answers: str) -> Path: ...


class Run(Protocol):
    """Runs a command in a folder, and returns its output.

    Fails the test if the exit status is not `status`. The message contains the output.
    """

    def __call__(
        self, folder: Path, *command: str | Path, status: int = 0, **environment: str
    ) -> str: ...


@pytest.fixture(scope="session")
def render(cookies_session: Any) -> Render:
    def render(**answers: str) -> Path:
        result = cookies_session.bake(extra_context=answers, template=str(TEMPLATE))
        if result.exception:
            raise result.exception
        project: Path = result.project_path
        return project

    return render


@pytest.fixture(scope="session")
def run() -> Run:
    def run(
        folder: Path, *command: str | Path, status: int = 0, **environment: str
    ) -> str:
        done = tools.execute(folder, *command, **environment)
        if done.returncode != status:
            line = " ".join(map(str, command))
            message = f"{line}: exit status {done.returncode}\n{done.stdout}"
            pytest.fail(message, pytrace=False)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv of the dev group, or else the one on the path."""
    beside_python = shutil.which("uv", path=str(Path(sys.executable).parent))
    found = beside_python or shutil.which("uv")
    assert found, "uv is part of the dev group"
    return found


@pytest.fixture(scope="session")
def project(run: Run, uv: str) -> Iterator[Callable[[str, str], Path]]:
    """Renders and installs the project of a starter and a mode; returns its folder.

    Each project is made once per test process. In mode `auto` its Python is the oldest
    on this machine, in mode `strict` the newest.

    The folder is not in pytest's own temporary folder, which other users cannot read:
    when root runs these tests, the PostgreSQL server of a project runs as another user,
    from the project's environment.
    """
    temporary = TemporaryDirectory(prefix="async-template-", ignore_cleanup_errors=True)
    with temporary as out:

        @functools.cache
        def project(starter: str, mode: str) -> Path:
            folder = tools.render(
                Path(out),
                project_name=f"{starter} {mode}",
                starter=starter,
                asyncio_mode=mode,
            )
            found = pythons.found()
            python = found[0] if mode == "auto" else found[-1]
            resolution = os.environ.get("PROJECT_RESOLUTION", "highest")
            options = ("--all-extras", "--all-groups", "--resolution", resolution)
            run(folder, uv, "sync", "--quiet", *options, "--python", python)
            return folder

        yield project


def tool(folder: Path, name: str) -> Path:
    """Return the path of a command in the project's own environment."""
    scripts = "Scripts" if os.name == "nt" else "bin"
    return folder / ".venv" / scripts / name


def forget_compiled(module: Path) -> None:
    """Remove the bytecode of a module that a test has changed.

    Python compiles a module again if its size has changed, or its modification time in
    whole seconds. Two planted bugs can be equal in both.
    """
    for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*"):
        compiled.unlink()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repository with one commit."""
    folder = tmp_path_factory.mktemp("repository") / "async-template"
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(
        tracked, cwd=TEMPLATE, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (TEMPLATE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TEMPLATE / name, folder / name)
    commands = [
        ["git", "init", "-q", "-b", "main"],
        ["git", "add", "-A"],
        ["git", *AUTHOR, "commit", "-qm", "all"],
    ]
    for command in commands:
        subprocess.run(command, cwd=folder, check=True)
    return folder
