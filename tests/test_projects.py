"""The project of every starter, in both modes, passes its own checks."""

import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tools import pythons

from .conftest import MODES, STARTERS, Render, Run, tool

Project = Callable[[str, str], Path]
FORGOTTEN_AWAITS = """async def save() -> bool: return True
async def main() -> None:
    save()
    if save(): pass
"""


def projects(modes: list[str]) -> pytest.MarkDecorator:
    """Run a test for every starter in these modes.

    The tests of a project share a group, because they share its environment.
    """
    parameters = []
    for starter, mode in product(STARTERS, modes):
        name = f"{starter}-{mode}"
        group = pytest.mark.xdist_group(name)
        parameters.append(pytest.param(starter, mode, marks=group, id=name))
    return pytest.mark.parametrize(("starter", "mode"), parameters)


PROJECTS = projects(MODES)
STRICT_PROJECTS = projects(["strict"])


@pytest.fixture(scope="session")
def mypy(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a project's own mypy.

    All projects share a cache, so mypy reads each library only once.
    """

    def mypy(
        folder: Path, *options: str | Path, platform: str = "linux", status: int = 0
    ) -> str:
        cache = tmp_path_factory.getbasetemp() / f"mypy-{platform}"
        common = ("--platform", platform, "--cache-dir", cache)
        return run(folder, tool(folder, "mypy"), *common, *options, status=status)

    return mypy


@PROJECTS
def test_the_tests_of_a_project_pass_and_cover_its_code(
    project: Project, run: Run, starter: str, mode: str
) -> None:
    folder = project(starter, mode)
    require_servers = "1" if sys.platform == "linux" else ""
    command = (tool(folder, "pytest"), "-q", "--cov")
    output = run(folder, *command, REQUIRE_SERVERS=require_servers)
    assert re.search(r"\d+ passed", output)
    assert "warning" not in output.splitlines()[-1]


@PROJECTS
def test_ruff_finds_nothing(
    project: Project, run: Run, starter: str, mode: str
) -> None:
    folder = project(starter, mode)
    run(folder, tool(folder, "ruff"), "check", "--no-cache")
    run(folder, tool(folder, "ruff"), "format", "--check", "--no-cache")


@PROJECTS
def test_mypy_finds_nothing(
    project: Project, mypy: Callable[..., str], starter: str, mode: str
) -> None:
    mypy(project(starter, mode))


@STRICT_PROJECTS
def test_no_function_is_called_that_windows_lacks(
    project: Project, mypy: Callable[..., str], starter: str, mode: str
) -> None:
    mypy(project(starter, mode), platform="win32")


@pytest.mark.xdist_group("media-auto")
def test_mypy_has_nothing_to_say_without_the_extra_of_media(
    render: Render, run: Run, uv: str, mypy: Callable[..., str]
) -> None:
    """The extras of other starters are in their dev groups too."""
    folder = render(project_name="Without Extra", starter="media")
    run(folder, uv, "sync", "--quiet", "--python", sys.executable)
    mypy(folder)


@pytest.mark.xdist_group("api_client-auto")
def test_mypy_finds_a_call_of_a_function_that_windows_lacks(
    project: Project, mypy: Callable[..., str], tmp_path: Path
) -> None:
    folder = project("api_client", "auto")
    culprit = tmp_path / "culprit.py"
    culprit.write_text("import os\n\nos.mkfifo('pipe')\n", encoding="utf-8")
    options = ("--config-file", folder / "pyproject.toml", culprit)
    mypy(folder, *options)
    assert "culprit.py:3" in mypy(folder, *options, platform="win32", status=1)


@pytest.mark.xdist_group("api_client-auto")
def test_mypy_finds_a_forgotten_await(
    project: Project, mypy: Callable[..., str], tmp_path: Path
) -> None:
    folder = project("api_client", "auto")
    culprit = tmp_path / "culprit.py"
    culprit.write_text(FORGOTTEN_AWAITS, encoding="utf-8")
    options = ("--config-file", folder / "pyproject.toml", culprit)
    output = mypy(folder, *options, status=1)
    assert "culprit.py:3" in output
    assert "culprit.py:4" in output


@pytest.mark.xdist_group("api_client-auto")
def test_a_failing_test_of_a_project_is_shown(project: Project, run: Run) -> None:
    folder = project("api_client", "auto")
    failing = folder / "tests" / "test_failing.py"
    text = "def test_it_fails() -> None:\n    assert 'one' == 'other'\n"
    failing.write_text(text, encoding="utf-8")
    try:
        with pytest.raises(pytest.fail.Exception, match="'one' == 'other'"):
            run(folder, tool(folder, "pytest"), "-q", failing)
    finally:
        failing.unlink()


@pytest.mark.xdist_group("longest")
@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("mode", MODES)
def test_ruff_finds_nothing_with_the_longest_answers(
    render: Render, run: Run, starter: str, mode: str
) -> None:
    long = {
        "project_slug": "x" * 40,
        "project_name": "N" * 100,
        "description": "d" * 500,
    }
    folder = render(starter=starter, asyncio_mode=mode, **long)
    ruff = Path(sys.executable).parent / "ruff"
    run(folder, ruff, "check", "--no-cache")
    run(folder, ruff, "format", "--check", "--no-cache")


@pytest.mark.xdist_group("two commands")
def test_the_two_commands_of_a_projects_readme_work(
    render: Render, run: Run, uv: str
) -> None:
    folder = render(project_name="Two Commands")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    first_part = readme.partition("## The program")[0]
    commands = re.findall(r"^uv run .*$", first_part, re.MULTILINE)
    assert commands == ["uv run two-commands --help", "uv run pytest"]
    for command in commands:
        run(folder, uv, *command.split()[1:], UV_PYTHON=sys.executable)


@pytest.mark.xdist_group("two commands")
def test_a_project_can_be_installed_with_pip_alone(render: Render, run: Run) -> None:
    folder = render(project_name="Plain Pip")
    run(folder, sys.executable, "-m", "venv", ".venv")
    python = tool(folder, "python")
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(folder, *pip, "install", "--upgrade", "pip>=25.1")
    run(folder, *pip, "install", "-e", ".", "--group", "dev")
    run(folder, tool(folder, "plain-pip"), "--help")
    run(folder, tool(folder, "pytest"), "-q")


@pytest.mark.xdist_group("agents")
def test_every_command_in_agents_md_works(render: Render, run: Run, uv: str) -> None:
    folder = render(project_name="Agents")
    text = (folder / "AGENTS.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 8
    for command in commands:
        assert command.startswith("uv run ")
        run(folder, uv, *command.split()[1:], UV_PYTHON=sys.executable)


@pytest.mark.parametrize("version", pythons.supported())
def test_the_default_project_passes_on_every_python_of_this_machine(
    render: Render, run: Run, uv: str, version: str
) -> None:
    python = pythons.find(version)
    if python is None:
        assert version not in pythons.required()
        pytest.skip(f"no Python {version} on this machine")
    folder = render(project_name=f"On {version}")
    run(folder, uv, "run", "--python", python, "pytest", "-q")


def test_the_required_pythons_are_found() -> None:
    assert pythons.found()
    for version in pythons.required():
        assert pythons.find(version), f"no Python {version} on this machine"
