"""The three steps of CONTRIBUTING.md add a starter.

A failing test names each missing step. The new starter is tests/example_starter: it has
two modules of its own and uses one shared module.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from .conftest import TEMPLATE, Run

EXAMPLE = TEMPLATE / "tests" / "example_starter"
QUICK_CHECK = (sys.executable, "-m", "pytest", "-q", "-n0", "tests/test_questions.py")
ALL_CHECKS = (sys.executable, "-m", "pytest", "-q", "-n0", "-k", "mine and not longest")


@pytest.mark.xdist_group("contributing")
def test_three_steps_add_a_starter(tmp_path: Path, run: Run) -> None:
    contributing = (TEMPLATE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert contributing.count("\n3. ") == 1
    copy = tmp_path / "async-template"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "docs")
    shutil.copytree(TEMPLATE, copy, ignore=ignored)

    # 1. Add the folder.
    starter = copy / "templates" / "mine"
    shutil.copytree(EXAMPLE, starter, ignore=shutil.ignore_patterns("mutations.toml"))
    output = run(copy, *QUICK_CHECK, status=1)
    assert "cookiecutter.json must name each folder of templates/" in output

    # 2. Name the starter in cookiecutter.json and in the README's two tables.
    questions = json.loads((copy / "cookiecutter.json").read_text(encoding="utf-8"))
    last = questions["starter"][-1]
    questions["starter"].append("mine")
    questions["__prompts__"]["starter"]["mine"] = "My own - what it is"
    (copy / "cookiecutter.json").write_text(json.dumps(questions), encoding="utf-8")
    output = run(copy, *QUICK_CHECK, status=1)
    assert "table of starters needs a row for each" in output

    readme = (copy / "README.md").read_text(encoding="utf-8")
    lines = readme.splitlines()
    row = next(line for line in lines if line.startswith(f"| **`{last}`**"))
    readme = readme.replace(row, f"{row}\n| **`mine`** | my own | a real one |")
    choices = next(line for line in lines if line.startswith("| `starter`"))
    readme = readme.replace(choices, choices.replace(f"`{last}`", f"`{last}`, `mine`"))
    (copy / "README.md").write_text(readme, encoding="utf-8")
    run(copy, *QUICK_CHECK)

    # 3. List bugs that its tests must find.
    output = run(copy, *ALL_CHECKS, "--collect-only")
    assert "mine: no delay" not in output
    shutil.copy(EXAMPLE / "mutations.toml", copy / "tests" / "mutations" / "mine.toml")
    output = run(copy, *ALL_CHECKS)
    assert " passed" in output
