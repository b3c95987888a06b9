"""Plant a bug into a project, run its test, and say how the test ended.

Each file of tests/planted is a test. Some bugs must be in the package, so each file is
also copied to `app.planted`, a module of the package. `CULPRIT` in the file is a
regular expression that the message of the guards must match. A test that hangs has a
deadline of 0.3 s instead of 10 s, so that it ends soon.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import execute

from .conftest import TEMPLATE, forget_compiled, tool

PLANTED = TEMPLATE / "tests" / "planted"
# The bugs in the table of docs/bugs.md.
FILES = sorted(PLANTED.glob("[0-9]*.py"))
# Correct code, for which the guards must raise no alarm.
GREEN = sorted(PLANTED.glob("green_*.py"))
# Bugs that are not in the table: how they end without the guards depends on the
# installed packages or on the version of Python.
ONLY_GUARDED = sorted([*PLANTED.glob("anyio_*.py"), *PLANTED.glob("only_*.py")])
PLAIN = """
[tool.pytest.ini_options]
asyncio_mode = "auto"
pythonpath = ["src"]
"""
# Without the guards, a test can only await the coroutine once.
STAND_IN = """
import pytest

@pytest.fixture
def cancel_everywhere():
    async def once(factory, check=None):
        await factory()
    return once
"""


def title(file: Path) -> str:
    """Return the name of the bug: the first line of the file's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert docstring, file
    return docstring.splitlines()[0].rstrip(".")


def culprit(file: Path) -> str:
    """Return the regular expression that the message of the guards must match."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CULPRIT":
            return str(ast.literal_eval(node.value))
    raise ValueError(f"{file.name} has no CULPRIT")


def package_of(project: Path) -> str:
    """Return the name of the package of a rendered project."""
    (init,) = project.glob("src/*/__init__.py")
    return init.parent.name


@contextmanager
def planted(folder: Path, package: str, file: Path) -> Iterator[Path]:
    """Plant a bug into a project for the block; yield the path of its test."""
    text = file.read_text(encoding="utf-8").replace("app.planted", f"{package}.planted")
    test = folder / "planted" / "test_planted.py"
    module = folder / "src" / package / "planted.py"
    for path in (test, module):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    try:
        yield test
    finally:
        for path in (test, module):
            path.unlink()
            forget_compiled(path)


def outcome(folder: Path, python: Path, test: Path, *options: str) -> tuple[str, str]:
    """Run one test file; return "passes", "fails" or "hangs", and pytest's output.

    pytest-timeout decides whether a test hangs. It measures from the start of the test,
    so a slow start of the process does not count.
    """
    quiet = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider")
    # The command and not `python -m pytest`: `uv run pytest` starts it too.
    pytest = python.with_name("pytest")
    done = execute(folder, pytest, *quiet, *options, test)
    output = done.stdout
    assert done.returncode in (0, 1), output
    if "+ Timeout +" in output:
        return "hangs", output
    if done.returncode == 1:
        return "fails", output
    return "passes", output


def plain_outcome(project: Path, folder: Path, file: Path) -> str:
    """Return how a bug ends with `asyncio_mode = auto` alone.

    Makes a project without the guards in `folder`, and runs it in the environment of
    `project`.
    """
    package = folder / "src" / "plain"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(PLAIN, encoding="utf-8")
    (folder / "conftest.py").write_text(STAND_IN, encoding="utf-8")
    options = ("--timeout=5", "--timeout-method=thread")
    with planted(folder, "plain", file) as test:
        ended, _ = outcome(folder, tool(project, "python"), test, *options)
    return ended


def names_the_test(output: str) -> bool:
    """Say whether pytest's summary contains the name of a planted test."""
    return re.search(r"test_planted\.py::(\w+::)?test_", output) is not None


def guarded_outcome(project: Path, file: Path) -> str:
    """Return how a bug ends in a project of this template.

    A failure counts only if pytest names the test and the message matches `CULPRIT`.
    """
    with planted(project, package_of(project), file) as test:
        ended, output = outcome(project, tool(project, "python"), test)
    if ended != "passes":
        pattern = culprit(file)
        reason = f"{file.name}: the output does not match {pattern!r}:\n{output}"
        assert names_the_test(output), reason
        assert re.search(pattern, output), reason
    return ended


def row(file: Path, plain: str, guarded: str) -> str:
    """Return one row of the table in docs/bugs.md."""
    if guarded == "fails":
        guarded = "**fails**"
    return f"| {title(file)} | {plain} | {guarded} |"
