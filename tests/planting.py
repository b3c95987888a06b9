"""Plant a bug into a project, run its tests, and say how that ended.

A file of tests/planted is a test and, where the bug has to stand in the package, a
module of it: both places get it. ``CULPRIT`` in the file is what the guards' message
has to match.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import execute

from .conftest import TEMPLATE, forget_compiled, tool

FILES = sorted((TEMPLATE / "tests" / "planted").glob("[0-9]*.py"))
GREEN = sorted((TEMPLATE / "tests" / "planted").glob("green_*.py"))
# Not in the README's table: what happens without the guards depends on what is
# installed, or on the version of Python.
ONLY_GUARDED = sorted(
    [
        *(TEMPLATE / "tests" / "planted").glob("anyio_*.py"),
        *(TEMPLATE / "tests" / "planted").glob("only_*.py"),
    ]
)
PLAIN = """
[tool.pytest.ini_options]
asyncio_mode = "auto"
pythonpath = ["src"]
"""
# Without the guards a coroutine can only be awaited as it is, once.
STAND_IN = """
import pytest

@pytest.fixture
def cancel_everywhere():
    async def once(factory, check=None):
        await factory()
    return once
"""


def title(file: Path) -> str:
    """The bug, in words: the first line of the file's docstring."""
    return (
        (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
        .splitlines()[0]
        .rstrip(".")
    )


def culprit(file: Path) -> str:
    """What the message must match for the bug to be named."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "CULPRIT"
        ):
            return str(ast.literal_eval(node.value))
    raise ValueError(f"{file.name} names no CULPRIT")


def package_of(project: Path) -> str:
    """The name of a rendered project's one package."""
    (package,) = (path.parent.name for path in project.glob("src/*/__init__.py"))
    return package


@contextmanager
def planted(folder: Path, package: str, file: Path) -> Iterator[Path]:
    """The project with the bug in it, and after that again without."""
    text = file.read_text(encoding="utf-8").replace("app.planted", f"{package}.planted")
    places = [
        folder / "planted" / "test_planted.py",
        folder / "src" / package / "planted.py",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    try:
        yield places[0]
    finally:
        for place in places:
            place.unlink()
            forget_compiled(place)


def outcome(folder: Path, python: Path, test: Path, *options: str) -> tuple[str, str]:
    """Run one test file; return "passes", "fails" or "hangs", and what pytest said.

    Whether a test hangs is for pytest-timeout to say: its time begins with the test,
    however slowly the process starts.
    """
    quiet = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider")
    pytest = python.with_name("pytest")  # as `uv run pytest` starts it
    done = execute(folder, pytest, *quiet, *options, test)
    said = done.stdout
    assert done.returncode in (0, 1), said
    if "+ Timeout +" in said:
        return "hangs", said
    return ("fails" if done.returncode else "passes"), said


def plain_outcome(project: Path, folder: Path, file: Path) -> str:
    """How the bug ends with ``asyncio_mode = auto`` and no more, in the environment of
    ``project``.
    """
    (folder / "src" / "plain").mkdir(parents=True, exist_ok=True)
    (folder / "src" / "plain" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(PLAIN, encoding="utf-8")
    (folder / "conftest.py").write_text(STAND_IN, encoding="utf-8")
    with planted(folder, "plain", file) as test:
        return outcome(
            folder,
            tool(project, "python"),
            test,
            "--timeout=5",
            "--timeout-method=thread",
        )[0]


def names_the_test(said: str) -> bool:
    """Whether pytest's summary has the name of a planted test."""
    return re.search(r"test_planted\.py::(\w+::)?test_", said) is not None


def guarded_outcome(project: Path, file: Path) -> str:
    """How it ends in a project of this template: only a message that names the culprit
    counts.
    """
    with planted(project, package_of(project), file) as test:
        ended, said = outcome(project, tool(project, "python"), test)
    named = names_the_test(said) and re.search(culprit(file), said)
    assert ended == "passes" or named, (
        f"{file.name}: nothing in this names {culprit(file)!r}:\n{said}"
    )
    return ended


def row(file: Path, plain: str, guarded: str) -> str:
    """One line of the README's table."""
    return f"| {title(file)} | {plain} | {'**fails**' if guarded == 'fails' else guarded} |"  # noqa: E501
