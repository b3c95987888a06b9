"""CONTRIBUTING.md's three steps add a starter; a failing test names each missing step.

The starter in tests/example_starter has two modules of its own and one shared module.
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
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".*_cache", "__pycache__", "docs"
    )
    shutil.copytree(TEMPLATE, copy, ignore=left_out)

    # 1. A folder.
    starter = copy / "templates" / "mine"
    shutil.copytree(EXAMPLE, starter, ignore=shutil.ignore_patterns("mutations.toml"))
    said = run(copy, *QUICK_CHECK, status=1)
    assert "cookiecutter.json must name each folder of templates/" in said

    # 2. Its name, in cookiecutter.json and in the README's two tables.
    questions = json.loads((copy / "cookiecutter.json").read_text(encoding="utf-8"))
    last = questions["starter"][-1]
    questions["starter"].append("mine")
    questions["__prompts__"]["starter"]["mine"] = "My own - what it is"
    (copy / "cookiecutter.json").write_text(json.dumps(questions), encoding="utf-8")
    said = run(copy, *QUICK_CHECK, status=1)
    assert "table of starters needs a row for each" in said

    readme = (copy / "README.md").read_text(encoding="utf-8")
    lines = readme.splitlines()
    (row,) = (line for line in lines if line.startswith(f"| **`{last}`**"))
    readme = readme.replace(row, f"{row}\n| **`mine`** | my own | a real one |")
    choices = next(line for line in lines if line.startswith("| `starter`"))
    readme = readme.replace(choices, choices.replace(f"`{last}`", f"`{last}`, `mine`"))
    (copy / "README.md").write_text(readme, encoding="utf-8")
    run(copy, *QUICK_CHECK)

    # 3. Bugs that its tests must find.
    said = run(copy, *ALL_CHECKS, "--collect-only", status=0)
    assert "mine: no delay" not in said
    shutil.copy(EXAMPLE / "mutations.toml", copy / "tests" / "mutations" / "mine.toml")
    said = run(copy, *ALL_CHECKS)
    assert " passed" in said
