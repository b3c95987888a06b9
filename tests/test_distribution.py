"""The distributions of a project (wheel and sdist), and the steps of its CI."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Render, Run, tool

LIST_FILES = """
import built.app
from importlib import resources

print(*resources.files("built").iterdir())
"""

pytestmark = pytest.mark.xdist_group("distribution")


@pytest.fixture(scope="module")
def built(render: Render, run: Run, uv: str) -> Path:
    """A project of the chat starter, which has a data file, built with `uv build`."""
    folder = render(project_name="Built", starter="chat")
    run(folder, uv, "build", "--quiet", "--python", sys.executable)
    return folder


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_a_distribution_installs_and_runs_without_the_project(
    kind: str, built: Path, tmp_path: Path, run: Run, uv: str
) -> None:
    (distribution,) = (built / "dist").glob(f"*.{kind}")
    run(tmp_path, uv, "venv", "--quiet", "--python", sys.executable)
    run(tmp_path, uv, "pip", "install", "--quiet", distribution)
    assert "Usage: built" in run(tmp_path, tool(tmp_path, "built"), "--help")
    files = run(tmp_path, tool(tmp_path, "python"), "-I", "-c", LIST_FILES)
    assert "page.html" in files
    assert "py.typed" in files
    assert str(built) not in files


def test_the_steps_of_a_projects_ci_pass(render: Render, run: Run, uv: str) -> None:
    folder = render(project_name="In CI")
    text = (folder / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    jobs: dict[str, Any] = yaml.safe_load(text)["jobs"]
    commands = []
    for job in jobs.values():
        for step in job["steps"]:
            if "run" in step:
                commands.append(step["run"])
    assert commands.count("pip install uv") == len(jobs)
    uv_commands = [command for command in commands if command != "pip install uv"]
    assert len(uv_commands) >= 4
    for command in uv_commands:
        program, *arguments = command.split()
        assert program == "uv"
        run(folder, uv, *arguments, UV_PYTHON=sys.executable, CI="true")
