"""The first hour with a new project: hooks, first commit, a program of your own."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .conftest import AUTHOR, Render, Run, tool

pytestmark = pytest.mark.xdist_group("first hour")
APP = '''"""Say hello."""


async def main(name: str = "world") -> int:
    """Say hello.

    Args:
        name: Name of the person.
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
    """A new project with one commit, after the first commands of its README."""
    folder = render(project_name="Cats")
    run(folder, uv, "sync", "--quiet", "--python", sys.executable)
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "add", "-A")
    run(folder, "git", *AUTHOR, "commit", "-qm", "First commit")
    return folder


@pytest.mark.parametrize("program", ["pre-commit", "prek"])
def test_the_git_hooks_pass_on_the_first_run(
    cats: Path, run: Run, uv: str, program: str
) -> None:
    hooks = Path(sys.executable).parent / program
    path = f"{Path(uv).parent}:/usr/bin:/bin"
    output = run(cats, hooks, "run", "-a", PATH=path, UV_PYTHON=sys.executable)
    assert output.count("Passed") == 3
    assert run(cats, "git", "status", "--porcelain") == ""


def test_the_first_commit_has_the_lock_file_and_no_cache(cats: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=cats, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "uv.lock" in tracked
    for name in tracked:
        assert "cache" not in name
        assert not name.startswith((".venv", ".coverage"))


def dependencies_of(project: Path) -> set[str]:
    """Return the names of a project's runtime dependencies."""
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    requirements = tomllib.loads(pyproject)["project"]["dependencies"]
    return {re.split(r"[^-\w]", requirement)[0] for requirement in requirements}


def test_the_five_steps_of_the_readme_give_a_program_of_ones_own(
    cats: Path, tmp_path: Path, run: Run, uv: str
) -> None:
    readme = (cats / "README.md").read_text(encoding="utf-8")
    steps = readme.partition("\nTo replace the program altogether:\n")[2]
    steps = steps.partition("\n## ")[0]
    assert re.findall(r"^(\d)\. ", steps, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    (deleted,) = re.findall(r"`rm ([^`]+)`", steps)
    (kept_dependency,) = re.findall(r"`(\w+)` stays", steps)
    dependencies = dependencies_of(cats)
    assert kept_dependency in dependencies

    dogs = tmp_path / "dogs"
    ignored = shutil.ignore_patterns(".venv", ".git", ".*_cache")
    shutil.copytree(cats, dogs, ignore=ignored)
    for pattern in ["src/cats/[!_]*.py", *deleted.split()]:
        for path in dogs.glob(pattern):
            path.unlink()
    (dogs / "src/cats/app.py").write_text(APP, encoding="utf-8")
    (dogs / "src/cats").rename(dogs / "src/dogs")
    step_four = steps.partition("replace the name in")[2].partition("\n5.")[0]
    for name in re.findall(r"`([\w.]+)`", step_four):
        (path,) = [*dogs.glob(name), *dogs.glob(f"src/*/{name}")]
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("cats", "dogs"), encoding="utf-8")
    (dogs / "tests/test_app.py").write_text(TEST, encoding="utf-8")
    removed = dependencies - {kept_dependency}
    run(dogs, uv, "remove", *removed, UV_PYTHON=sys.executable)

    assert run(dogs, uv, "run", "dogs", "--name", "Ada") == "Hello, Ada!\n"
    assert "1 passed" in run(dogs, uv, "run", "pytest", "-q")
    for check in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        run(dogs, tool(dogs, check[0]), *check[1:])
