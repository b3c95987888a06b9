"""Every starter in both modes passes the project's own checks."""

import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tools import pythons

from .conftest import MODES, STARTERS, Render, Run, tool

Project = Callable[[str, str], Path]
PROJECTS = pytest.mark.parametrize(
    ("starter", "mode"),
    [
        pytest.param(
            starter,
            mode,
            marks=pytest.mark.xdist_group(f"{starter}-{mode}"),
            id=f"{starter}-{mode}",
        )
        for starter, mode in product(STARTERS, MODES)
    ],
)


@pytest.fixture(scope="session")
def mypy(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a project's own mypy; what it has read of the libraries, the next project's
    need not read again.
    """

    def mypy(
        folder: Path, *options: str | Path, platform: str = "linux", status: int = 0
    ) -> str:
        cache = tmp_path_factory.getbasetemp() / f"mypy-{platform}"
        return run(
            folder,
            tool(folder, "mypy"),
            "--platform",
            platform,
            "--cache-dir",
            cache,
            *options,
            status=status,
        )

    return mypy


@PROJECTS
def test_the_projects_own_tests_pass_and_cover_it(
    project: Project, run: Run, starter: str, mode: str
) -> None:
    folder = project(starter, mode)
    told = run(
        folder,
        tool(folder, "pytest"),
        "-q",
        "--cov",
        REQUIRE_SERVERS="1" if sys.platform == "linux" else "",
    )
    assert re.search(r"\d+ passed", told)
    assert "warning" not in told.splitlines()[-1]


@PROJECTS
def test_ruff_has_nothing_to_say(
    project: Project, run: Run, starter: str, mode: str
) -> None:
    folder = project(starter, mode)
    run(folder, tool(folder, "ruff"), "check", "--no-cache")
    run(folder, tool(folder, "ruff"), "format", "--check", "--no-cache")


@PROJECTS
def test_mypy_has_nothing_to_say(
    project: Project, mypy: Callable[..., str], starter: str, mode: str
) -> None:
    mypy(project(starter, mode))


@pytest.mark.parametrize(
    "starter",
    [
        pytest.param(name, marks=pytest.mark.xdist_group(f"{name}-strict"), id=name)
        for name in STARTERS
    ],
)
def test_nothing_is_called_that_windows_does_not_have(
    project: Project, mypy: Callable[..., str], starter: str
) -> None:
    mypy(project(starter, "strict"), platform="win32")


@pytest.mark.xdist_group("media-auto")
def test_mypy_has_nothing_to_say_without_the_extra_of_media(
    render: Render, run: Run, uv: str, mypy: Callable[..., str]
) -> None:
    """The extras of other starters are in their dev groups too."""
    folder = render(project_name="Without Extra", starter="media")
    run(folder, uv, "sync", "--quiet", "--python", sys.executable)
    mypy(folder)


@pytest.mark.xdist_group("api_client-auto")
def test_a_call_that_windows_does_not_have_is_found(
    project: Project, mypy: Callable[..., str], tmp_path: Path
) -> None:
    folder = project("api_client", "auto")
    culprit = tmp_path / "culprit.py"
    culprit.write_text("import os\n\nos.mkfifo('pipe')\n", encoding="utf-8")
    config = ("--config-file", folder / "pyproject.toml", culprit)
    mypy(folder, *config)
    assert "culprit.py:3" in mypy(folder, *config, platform="win32", status=1)


@pytest.mark.xdist_group("api_client-auto")
def test_mypy_finds_a_forgotten_await(
    project: Project, mypy: Callable[..., str], tmp_path: Path
) -> None:
    folder = project("api_client", "auto")
    culprit = tmp_path / "culprit.py"
    culprit.write_text(
        "async def save() -> bool: return True\nasync def main() -> None:\n    save()\n    if save(): pass\n",  # noqa: E501
        encoding="utf-8",
    )
    told = mypy(folder, "--config-file", folder / "pyproject.toml", culprit, status=1)
    assert "culprit.py:3" in told
    assert "culprit.py:4" in told


@pytest.mark.xdist_group("api_client-auto")
def test_a_failing_test_fails_the_project_and_is_shown(
    project: Project, run: Run
) -> None:
    folder = project("api_client", "auto")
    planted = folder / "tests" / "test_planted.py"
    planted.write_text(
        "def test_no() -> None:\n    assert 'planted' == 'red'\n", encoding="utf-8"
    )
    try:
        with pytest.raises(pytest.fail.Exception, match="'planted' == 'red'"):
            run(folder, tool(folder, "pytest"), "-q", planted)
    finally:
        planted.unlink()


@pytest.mark.xdist_group("longest")
@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_longest_names_are_lint_clean_too(
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
def test_the_two_commands_of_a_projects_readme(
    render: Render, run: Run, uv: str
) -> None:
    folder = render(project_name="Two Commands")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    commands = re.findall(
        r"^uv run .*$", readme.partition("## The program")[0], re.MULTILINE
    )
    assert commands == ["uv run two-commands --help", "uv run pytest"]
    for command in commands:
        run(folder, uv, *command.split()[1:], UV_PYTHON=sys.executable)


@pytest.mark.xdist_group("two commands")
def test_without_uv_pip_is_enough(render: Render, run: Run) -> None:
    folder = render(project_name="Plain Pip")
    run(folder, sys.executable, "-m", "venv", ".venv")
    pip = (
        tool(folder, "python"),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
    )
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
def test_the_default_project_is_green_on_every_python_here(
    render: Render, run: Run, uv: str, version: str
) -> None:
    python = pythons.find(version)
    if python is None:
        assert version not in pythons.required()
        pytest.skip(f"no Python {version} on this machine")
    folder = render(project_name=f"On {version}")
    run(folder, uv, "run", "--python", python, "pytest", "-q")


def test_the_pythons_that_must_be_here_are_found() -> None:
    assert pythons.found()
    for version in pythons.required():
        assert pythons.find(version), f"no Python {version} on this machine"
