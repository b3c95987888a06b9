"""Conditions that the other tests of the template rely on."""

import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest

from .conftest import Run, forget_compiled

pytestmark = pytest.mark.quick


@pytest.mark.xdist_group("harness")
@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ, reason="runs without pytest-xdist"
)
def test_pytest_xdist_knows_the_groups(request: pytest.FixtureRequest) -> None:
    # Without the groups, each of the two processes would install every project.
    assert request.node.nodeid.endswith("@harness")


def test_a_changed_module_is_compiled_again(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("A = 1\n", encoding="utf-8")
    compiled = py_compile.compile(str(module))
    assert compiled is not None
    forget_compiled(module)
    assert not Path(compiled).exists()


def test_a_starter_that_runs_in_place_leaves_nothing_in_the_project_folder(
    repository: Path, tmp_path: Path, run: Run
) -> None:
    # Every later render would copy it.
    copy = tmp_path / "async-template"
    shutil.copytree(repository, copy)
    command = (sys.executable, "-m", "pytest", "-n0", "--ignore-glob=*test_*")
    run(copy, *command, "templates/chat", status=5)  # 5: no tests were collected
    project = copy / "{{cookiecutter.project_slug}}"
    assert not list(project.rglob("__pycache__"))
