"""`cruft update` changes the tooling of a project, and keeps the user's work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import AUTHOR, Run

CRUFT = (sys.executable, "-m", "cruft")


def commit(folder: Path, run: Run, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", *AUTHOR, "commit", "-qm", message)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.xdist_group("update")
def test_an_update_changes_the_tooling_and_keeps_the_users_work(
    repository: Path, tmp_path: Path, run: Run, uv: str
) -> None:
    template = tmp_path / "async-template"
    shutil.copytree(repository, template)
    run(template, "git", "tag", "v1.0.0")

    run(tmp_path, *CRUFT, "create", template, "--checkout", "v1.0.0", "--no-input")
    project = tmp_path / "my-async-project"
    run(project, "git", "init", "-q", "-b", "main")
    commit(project, run, "The project as it was created")
    app = project / "src/my_async_project/app.py"
    replace(app, "Print cat facts", "Print my own facts")
    module = project / "src/my_async_project/mine.py"
    module.write_text("MINE = 1\n", encoding="utf-8")
    test = project / "tests/test_mine.py"
    test.write_text("def test_mine() -> None: ...\n", encoding="utf-8")
    readme = project / "README.md"
    replace(readme, "# My Async Project", "# Mine")
    pyproject = project / "pyproject.toml"
    replace(pyproject, '"rich>=15",', '"rich>=15",\n    "humanize>=4",')
    commit(project, run, "My work")
    before = {path: path.read_bytes() for path in (app, module, test, readme)}

    inner = template / "{{cookiecutter.project_slug}}"
    workflow = inner / ".github/workflows/ci.yml"
    replace(workflow, "timeout-minutes: 15", "timeout-minutes: 16")
    replace(inner / "pyproject.toml", '"pytest-cov>=7",', '"pytest-cov>=7.0.0",')
    replace(inner / "README.md", "## Test, lint, types", "## Test, lint and types")
    starter = template / "templates/api_client/app.py"
    replace(starter, "Print cat facts", "Print facts about cats")
    commit(template, run, "The new version")
    run(template, "git", "tag", "v1.1.0")

    check = (*CRUFT, "check", "--checkout", "v1.1.0")
    assert "out of date" in run(project, *check, status=1)
    run(project, *CRUFT, "update", "--skip-apply-ask", "--checkout", "v1.1.0")
    run(project, *check)

    changed = run(project, "git", "diff", "--name-only", "HEAD").split()
    assert sorted(changed) == [
        ".cruft.json",
        ".github/workflows/ci.yml",
        "pyproject.toml",
    ]
    for path, content in before.items():
        assert path.read_bytes() == content, path
    assert not list(project.rglob("*.rej"))
    text = pyproject.read_text(encoding="utf-8")
    assert '"pytest-cov>=7.0.0"' in text
    assert '"humanize>=4"' in text
    run(project, uv, "run", "--python", sys.executable, "pytest", "-q")


@pytest.mark.xdist_group("update")
def test_an_update_does_not_touch_the_starters_modules(
    repository: Path, tmp_path: Path, run: Run
) -> None:
    """The new version of the starter has added, changed and removed modules."""
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
    """cruft renders both versions in one process.

    See https://github.com/cruft/cruft/issues/253.
    """
    template = tmp_path / "async-template"
    shutil.copytree(repository, template)
    extension = template / "local_extensions.py"
    agents = template / "{{cookiecutter.project_slug}}" / "AGENTS.md"
    without_filter = {path: path.read_text("utf-8") for path in (extension, agents)}
    with_filter = {
        extension: without_filter[extension].replace(
            '"check_all": check_all,', '"check_all": check_all, "shout": str.upper,'
        ),
        agents: without_filter[agents] + "\n{{ cookiecutter.project_name | shout }}\n",
    }
    versions = [without_filter, with_filter]
    if change == "loses":
        versions.reverse()
    for number, version in enumerate(versions):
        for path, text in version.items():
            path.write_text(text, encoding="utf-8")
        # Each version needs a difference, or git refuses the commit.
        (template / "CHANGELOG.md").write_text(f"# {number}\n", encoding="utf-8")
        commit(template, run, f"Version {number}")
        run(template, "git", "tag", f"v{number}")

    create = (*CRUFT, "create", template, "--checkout", "v0", "--no-input")
    run(tmp_path, *create)
    project = tmp_path / "my-async-project"
    run(project, "git", "init", "-q", "-b", "main")
    commit(project, run, "The project as it was created")
    run(project, *CRUFT, "update", "--skip-apply-ask", "--checkout", "v1")

    last_line = (project / "AGENTS.md").read_text("utf-8").splitlines()[-1]
    assert (last_line == "MY ASYNC PROJECT") == (change == "gains")


def test_a_project_records_the_version_of_the_template(
    repository: Path, tmp_path: Path, run: Run
) -> None:
    run(tmp_path, *CRUFT, "create", repository, "--no-input")
    project = tmp_path / "my-async-project"
    recorded = (project / ".cruft.json").read_text(encoding="utf-8")
    assert re.search(r'"commit": "[0-9a-f]{40}"', recorded)
    assert '"asyncio_mode": "auto"' in recorded
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    assert re.match(r"# Made by async-template \d+\.\d+\.\d+: https://", pyproject)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert head.stdout.strip() in recorded
