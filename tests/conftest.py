"""What the template's tests share: rendering a project, its own environment, and
running commands in it.
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
WHO = (
    "-c",
    "user.name=t",
    "-c",
    "user.email=t@example.com",
    "-c",
    "commit.gpgsign=false",
)  # git's author, in tests


class Render(Protocol):
    """Renders a project with these answers, the defaults for the rest, and returns its
    folder.
    """

    def __call__(self, **answers: str) -> Path: ...


class Run(Protocol):
    """Runs a command in a folder; fails the test with all of its output unless it exits
    with ``status``.
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
            pytest.fail(
                f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}",
                pytrace=False,
            )
        return done.stdout

    return run


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that the dev group has installed, or the one on the path."""
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which(
        "uv"
    )
    assert found, "uv is part of the dev group"
    return found


@pytest.fixture(scope="session")
def project(run: Run, uv: str) -> Iterator[Callable[[str, str], Path]]:
    """Renders the project of a starter and a mode, with its own environment in `.venv`.

    Each is made once per test process. In mode `auto` its Python is the oldest on this
    machine, in mode `strict` the newest.

    It is not in pytest's own folder, which only its owner can enter: when root runs
    these tests, the PostgreSQL server of a project runs as another user, from the
    project's environment.
    """
    with TemporaryDirectory(
        prefix="async-template-", ignore_cleanup_errors=True
    ) as out:

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
    """The command ``name`` of the project's own environment."""
    return folder / ".venv" / ("Scripts" if os.name == "nt" else "bin") / name


def forget_compiled(module: Path) -> None:
    """Remove what Python has compiled from a module that a test has changed.

    Python compiles a module again when its size or the second of its last change
    differs. Two planted bugs can have the same size, and the same second.
    """
    for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*"):
        compiled.unlink()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repository with one commit, as a user's git meets it."""
    folder = tmp_path_factory.mktemp("repository") / "async-template"
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(
        tracked, cwd=TEMPLATE, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (TEMPLATE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TEMPLATE / name, folder / name)
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        [*WHO, "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder
