"""cruft keeps a project up to date: the tooling changes, and what the user has written
stays.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import WHO, Run

CRUFT = (sys.executable, "-m", "cruft")


def commit(folder: Path, run: Run, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", *WHO, "commit", "-qm", message)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.xdist_group("update")
def test_an_update_brings_the_tooling_and_leaves_the_users_work(
    repository: Path, tmp_path: Path, run: Run, uv: str
) -> None:
    template = tmp_path / "async-template"
    shutil.copytree(repository, template)
    run(template, "git", "tag", "v1.0.0")

    run(tmp_path, *CRUFT, "create", template, "--checkout", "v1.0.0", "--no-input")
    project = tmp_path / "my-async-project"
    run(project, "git", "init", "-q", "-b", "main")
    commit(project, run, "The project as it came")
    app = project / "src/my_async_project/app.py"
    replace(app, "Print cat facts", "Print my own facts")
    (project / "src/my_async_project/mine.py").write_text(
        "MINE = 1\n", encoding="utf-8"
    )
    (project / "tests/test_mine.py").write_text(
        "def test_mine() -> None: ...\n", encoding="utf-8"
    )
    replace(project / "README.md", "# My Async Project", "# Mine")
    replace(
        project / "pyproject.toml", '"rich>=15",', '"rich>=15",\n    "humanize>=4",'
    )
    commit(project, run, "My work")
    mine = {
        p: p.read_bytes()
        for p in [app, *project.rglob("*mine.py"), project / "README.md"]
    }
    assert len(mine) == 4

    inner = template / "{{cookiecutter.project_slug}}"
    replace(
        inner / ".github/workflows/ci.yml", "timeout-minutes: 15", "timeout-minutes: 16"
    )
    replace(inner / "pyproject.toml", '"pytest-cov>=7",', '"pytest-cov>=7.0.0",')
    replace(inner / "README.md", "## Test, lint, types", "## Test, lint and types")
    replace(
        template / "templates/api_client/app.py",
        "Print cat facts",
        "Print facts about cats",
    )
    commit(template, run, "News")
    run(template, "git", "tag", "v1.1.0")

    assert "out of date" in run(
        project, *CRUFT, "check", "--checkout", "v1.1.0", status=1
    )
    run(project, *CRUFT, "update", "--skip-apply-ask", "--checkout", "v1.1.0")
    run(project, *CRUFT, "check", "--checkout", "v1.1.0")

    changed = run(project, "git", "diff", "--name-only", "HEAD").split()
    assert sorted(changed) == [
        ".cruft.json",
        ".github/workflows/ci.yml",
        "pyproject.toml",
    ]
    assert mine == {path: path.read_bytes() for path in mine}
    assert not list(project.rglob("*.rej"))
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    assert '"pytest-cov>=7.0.0"' in pyproject
    assert '"humanize>=4"' in pyproject
    run(project, uv, "run", "--python", sys.executable, "pytest", "-q")


@pytest.mark.xdist_group("update")
def test_an_update_leaves_the_starters_modules_alone(
    repository: Path, tmp_path: Path, run: Run
) -> None:
    """A module that the new version adds, changes or removes is not the project's."""
    template = tmp_path / "async-template"
    shutil.copytree(repository, template)
    starter = template / "templates" / "chat"
    (starter / "removed.py").write_text("REMOVED = 1\n", encoding="utf-8")
    (starter / "changed.py").write_text("CHANGED = 1\n", encoding="utf-8")
    (starter / "tests/test_changed.py").write_text("# 1\n", encoding="utf-8")
    commit(template, run, "The old version")
    run(template, "git", "tag", "v1.0.0")

    context = '{"starter": "chat"}'
    create = (*CRUFT, "create", template, "--checkout", "v1.0.0", "--no-input")
    run(tmp_path, *create, "--extra-context", context)
    project = tmp_path / "my-async-project"
    package = project / "src" / "my_async_project"
    assert {"removed.py", "changed.py", "page.html"} <= set(os.listdir(package))
    run(project, "git", "init", "-q", "-b", "main")
    commit(project, run, "The project as it was created")

    (starter / "removed.py").unlink()
    (starter / "changed.py").write_text("CHANGED = 2\n", encoding="utf-8")
    (starter / "page.html").write_text("<p>new</p>\n", encoding="utf-8")
    (starter / "new.py").write_text("NEW = 1\n", encoding="utf-8")
    (starter / "tests/test_changed.py").write_text("# 2\n", encoding="utf-8")
    (starter / "tests/test_new.py").write_text("# new\n", encoding="utf-8")
    inner = template / "{{cookiecutter.project_slug}}"
    main = inner / "src/{{cookiecutter.__package_name}}/__main__.py"
    replace(main, "The command line.", "The program's command line.")
    test_main = inner / "tests/test_main.py"
    replace(test_main, "The command line:", "The program's command line:")
    commit(template, run, "The new version")
    run(template, "git", "tag", "v1.1.0")

    run(project, *CRUFT, "update", "--skip-apply-ask", "--checkout", "v1.1.0")
    status = run(project, "git", "status", "--porcelain").splitlines()
    assert [line[3:] for line in status] == [
        ".cruft.json",
        "src/my_async_project/__main__.py",
        "tests/test_main.py",
    ]


@pytest.mark.xdist_group("update")
@pytest.mark.parametrize("change", ["gains", "loses"])
def test_an_update_works_when_the_extension_gains_or_loses_a_filter(
    change: str, repository: Path, tmp_path: Path, run: Run
) -> None:
    """cruft renders both versions in one process: cruft/cruft#253."""
    template = tmp_path / "async-template"
    shutil.copytree(repository, template)
    extension = template / "local_extensions.py"
    agents = template / "{{cookiecutter.project_slug}}" / "AGENTS.md"
    texts = {
        "without": (extension.read_text("utf-8"), agents.read_text("utf-8")),
        "with": (
            extension.read_text("utf-8").replace(
                '"check_all": check_all,', '"check_all": check_all, "shout": str.upper,'
            ),
            agents.read_text("utf-8") + "\n{{ cookiecutter.project_name | shout }}\n",
        ),
    }
    versions = ["without", "with"] if change == "gains" else ["with", "without"]
    for number, version in enumerate(versions):
        extension.write_text(texts[version][0], encoding="utf-8")
        agents.write_text(texts[version][1], encoding="utf-8")
        # The first commit may change nothing.
        (template / "CHANGELOG.md").write_text(f"# {number}\n", encoding="utf-8")
        commit(template, run, f"{version} the filter")
        run(template, "git", "tag", f"v{number}")

    create = (*CRUFT, "create", template, "--checkout", "v0", "--no-input")
    run(tmp_path, *create)
    project = tmp_path / "my-async-project"
    run(project, "git", "init", "-q", "-b", "main")
    commit(project, run, "The project as it was created")
    run(project, *CRUFT, "update", "--skip-apply-ask", "--checkout", "v1")

    last_line = (project / "AGENTS.md").read_text("utf-8").splitlines()[-1]
    assert (last_line == "MY ASYNC PROJECT") == (change == "gains")


def test_the_project_records_where_it_came_from(
    repository: Path, tmp_path: Path, run: Run
) -> None:
    run(tmp_path, *CRUFT, "create", repository, "--no-input")
    recorded = (tmp_path / "my-async-project" / ".cruft.json").read_text(
        encoding="utf-8"
    )
    assert re.search(r'"commit": "[0-9a-f]{40}"', recorded)
    assert '"asyncio_mode": "auto"' in recorded
    pyproject = (tmp_path / "my-async-project" / "pyproject.toml").read_text(
        encoding="utf-8"
    )
    assert re.match(r"# Made by async-template \d+\.\d+\.\d+: https://", pyproject)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert head.stdout.strip() in recorded
