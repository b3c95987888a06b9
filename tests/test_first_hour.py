"""What a person does with a new project in its first hour works."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .conftest import WHO, Render, Run, tool

pytestmark = pytest.mark.xdist_group("first hour")
APP = '''"""Say hello."""


async def main(name: str = "world") -> int:
    """Say hello.

    Args:
        name: Whom to greet.
    """
    print(f"Hello, {name}!")
    return 0
'''
TEST = """import pytest

from dogs.app import main


async def test_it_greets(capsys: pytest.CaptureFixture[str]) -> None:
    assert await main("Ada") == 0
    assert capsys.readouterr().out == "Hello, Ada!\\n"
"""


@pytest.fixture(scope="module")
def cats(render: Render, run: Run, uv: str) -> Path:
    """A new project under git, as after the README's first commands."""
    folder = render(project_name="Cats")
    run(folder, uv, "sync", "--quiet", "--python", sys.executable)
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "add", "-A")
    run(folder, "git", *WHO, "commit", "-qm", "First commit")
    return folder


@pytest.mark.parametrize("program", ["pre-commit", "prek"])
def test_the_git_hooks_are_clean_on_the_first_run(
    cats: Path, run: Run, uv: str, program: str
) -> None:
    hooks = Path(sys.executable).parent / program
    path = f"{Path(uv).parent}:/usr/bin:/bin"
    told = run(cats, hooks, "run", "-a", PATH=path, UV_PYTHON=sys.executable)
    assert told.count("Passed") == 3
    assert run(cats, "git", "status", "--porcelain") == ""


def test_only_the_lock_is_new_after_the_first_run(
    cats: Path, run: Run, uv: str
) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=cats, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "uv.lock" in tracked  # nothing hides it: it is the user's to commit
    assert not [
        name
        for name in tracked
        if "cache" in name or name.startswith((".venv", ".coverage"))
    ]


def test_five_lines_turn_it_into_a_program_of_ones_own(
    cats: Path, tmp_path: Path, run: Run, uv: str
) -> None:
    readme = (cats / "README.md").read_text(encoding="utf-8")
    own = readme.partition("\nTo replace the program altogether:\n")[2]
    own = own.partition("\n## ")[0]
    assert re.findall(r"^(\d)\. ", own, re.MULTILINE) == list("12345")
    delete, stays = (
        re.search(said, own) for said in (r"`rm ([^`]+)`", r"`(\w+)` stays")
    )
    assert delete
    assert stays
    dependencies = tomllib.loads((cats / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]["dependencies"]
    removed = {re.split(r"[^-\w]", dependency)[0] for dependency in dependencies} - {
        stays[1]
    }
    assert len(removed) == len(dependencies) - 1

    dogs = tmp_path / "dogs"
    shutil.copytree(
        cats, dogs, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache")
    )
    for pattern in ["src/cats/[!_]*.py", *delete[1].split()]:
        for path in dogs.glob(pattern):
            path.unlink()
    (dogs / "src/cats/app.py").write_text(APP, encoding="utf-8")
    (dogs / "src/cats").rename(dogs / "src/dogs")
    step_four = own.partition("replace the name in")[2].partition("\n5.")[0]
    for name in re.findall(r"`([\w.]+)`", step_four):
        (path,) = [*dogs.glob(name), *dogs.glob(f"src/*/{name}")]
        path.write_text(
            path.read_text(encoding="utf-8").replace("cats", "dogs"), encoding="utf-8"
        )
    (dogs / "tests/test_app.py").write_text(TEST, encoding="utf-8")
    run(dogs, uv, "remove", *removed, UV_PYTHON=sys.executable)

    assert run(dogs, uv, "run", "dogs", "--name", "Ada") == "Hello, Ada!\n"
    assert "1 passed" in run(dogs, uv, "run", "pytest", "-q")
    for check in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        run(dogs, tool(dogs, check[0]), *check[1:])
