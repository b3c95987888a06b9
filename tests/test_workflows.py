"""The workflows, ours and the projects': they parse, they are pinned, and the auditors
find nothing.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import QUESTIONS, TEMPLATE, Render, Run

pytestmark = pytest.mark.quick

WORKFLOWS = sorted((TEMPLATE / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module", params=["ours", *QUESTIONS["python_version"]])
def repository(request: pytest.FixtureRequest, render: Render) -> Path:
    return TEMPLATE if request.param == "ours" else render(python_version=request.param)


def workflows(repository: Path) -> dict[str, Any]:
    found = sorted((repository / ".github" / "workflows").glob("*.yml"))
    assert found
    return {
        path.read_text(encoding="utf-8"): yaml.safe_load(
            path.read_text(encoding="utf-8")
        )
        for path in found
    }


def test_every_action_is_pinned_by_its_commit_and_says_its_version(
    repository: Path,
) -> None:
    for text in workflows(repository):
        for use in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[0-9.]+", use), use


def test_no_permission_is_given_by_default_and_every_job_has_an_end(
    repository: Path,
) -> None:
    for workflow in workflows(repository).values():
        assert workflow["permissions"] == {}
        assert "concurrency" in workflow
        for job in workflow["jobs"].values():
            assert 0 < job["timeout-minutes"] <= 60
            assert job["permissions"]


def test_every_expression_of_the_source_survives_rendering(render: Render) -> None:
    source = (
        TEMPLATE / "{{cookiecutter.project_slug}}/.github/workflows/ci.yml"
    ).read_text(encoding="utf-8")
    rendered = (render() / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    expressions = re.findall(r"\$\{\{.*?\}\}", source)
    assert len(expressions) >= 3
    assert re.findall(r"\$\{\{.*?\}\}", rendered) == expressions


def test_zizmor_finds_nothing(repository: Path, run: Run) -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    told = run(
        repository,
        zizmor,
        "--offline",
        "--no-progress",
        "--persona",
        "pedantic",
        repository / ".github",
    )
    assert "No findings to report" in told
    assert "ignored" not in told or "0 ignored" in told


def test_actionlint_finds_nothing(repository: Path, run: Run) -> None:
    actionlint = shutil.which("actionlint") or shutil.which(
        "actionlint", path=str(Path(sys.executable).parent)
    )
    if actionlint is None:
        pytest.skip("no actionlint on this machine")
    run(
        repository,
        actionlint,
        *sorted((repository / ".github" / "workflows").glob("*.yml")),
    )


def test_dependabot_waits_before_it_proposes(repository: Path) -> None:
    settings = yaml.safe_load(
        (repository / ".github" / "dependabot.yml").read_text(encoding="utf-8")
    )
    for update in settings["updates"]:
        assert update["cooldown"]["default-days"] >= 7
