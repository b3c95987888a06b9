"""The workflows of the template and of the projects are pinned, limited and audited."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import QUESTIONS, TEMPLATE, Render, Run

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module", params=["template", *QUESTIONS["python_version"]])
def repository(request: pytest.FixtureRequest, render: Render) -> Path:
    """The template, or a project for one of the Python versions."""
    if request.param == "template":
        return TEMPLATE
    return render(python_version=request.param)


def workflows(repository: Path) -> list[Path]:
    """Return the files of the workflows of a repository."""
    found = sorted((repository / ".github" / "workflows").glob("*.yml"))
    assert found
    return found


def test_every_action_is_pinned_to_a_commit_and_names_its_version(
    repository: Path,
) -> None:
    for path in workflows(repository):
        text = path.read_text(encoding="utf-8")
        for use in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[0-9.]+", use), use


def test_every_job_names_its_permissions_and_has_a_time_limit(
    repository: Path,
) -> None:
    for path in workflows(repository):
        workflow: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {}
        assert "concurrency" in workflow
        for job in workflow["jobs"].values():
            assert 0 < job["timeout-minutes"] <= 60
            assert job["permissions"]


def test_rendering_keeps_the_expressions_of_the_workflow(render: Render) -> None:
    path = TEMPLATE / "{{cookiecutter.project_slug}}/.github/workflows/ci.yml"
    source = path.read_text(encoding="utf-8")
    rendered = (render() / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    expressions = re.findall(r"\$\{\{.*?\}\}", source)
    assert len(expressions) >= 3
    assert re.findall(r"\$\{\{.*?\}\}", rendered) == expressions


def test_zizmor_finds_nothing(repository: Path, run: Run) -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    options = ("--offline", "--no-progress", "--persona", "pedantic")
    output = run(repository, zizmor, *options, repository / ".github")
    assert "No findings to report" in output
    assert "ignored" not in output or "0 ignored" in output


def test_actionlint_finds_nothing(repository: Path, run: Run) -> None:
    beside_python = shutil.which("actionlint", path=str(Path(sys.executable).parent))
    actionlint = shutil.which("actionlint") or beside_python
    if actionlint is None:
        pytest.skip("no actionlint on this machine")
    run(repository, actionlint, *workflows(repository))


def test_dependabot_waits_a_week_before_it_proposes_a_version(
    repository: Path,
) -> None:
    path = repository / ".github" / "dependabot.yml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    for update in settings["updates"]:
        assert update["cooldown"]["default-days"] >= 7
