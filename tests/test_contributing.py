"""CONTRIBUTING.md's three steps add a starter, and each step that is left out is asked for by a failing test."""

import json
import shutil
import sys
from pathlib import Path

from cookiecutter.main import cookiecutter

from .conftest import TEMPLATE, Run


def test_three_steps_add_a_starter(tmp_path: Path, run: Run) -> None:
    assert (TEMPLATE / "CONTRIBUTING.md").read_text(encoding="utf-8").count("\n3. ") == 1
    copy = tmp_path / "async-template"
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "docs")
    shutil.copytree(TEMPLATE, copy, ignore=left_out)
    check = (sys.executable, "-m", "pytest", "-q", "-n0", "tests/test_questions.py")

    shutil.copytree(copy / "templates" / "api_client", copy / "templates" / "mine")
    assert "name each folder of templates/ in cookiecutter.json" in run(copy, *check, status=1)

    questions = json.loads((copy / "cookiecutter.json").read_text(encoding="utf-8"))
    questions["starter"].append("mine")
    questions["__prompts__"]["starter"]["mine"] = "My own - what it is"
    (copy / "cookiecutter.json").write_text(json.dumps(questions), encoding="utf-8")
    assert "table of starters needs a row for each" in run(copy, *check, status=1)

    readme = (copy / "README.md").read_text(encoding="utf-8")
    last = questions["starter"][-2]
    row = next(line for line in readme.splitlines() if line.startswith(f"| **`{last}`**"))
    readme = readme.replace(row, f"{row}\n| **`mine`** | my own | a real one |")
    readme = readme.replace(f"`{last}` | the program", f"`{last}`, `mine` | the program")
    (copy / "README.md").write_text(readme, encoding="utf-8")
    run(copy, *check)

    made = Path(cookiecutter(str(copy), no_input=True, output_dir=str(tmp_path), extra_context={"starter": "mine"}))
    assert (made / "src/my_async_project/app.py").read_bytes() == (copy / "templates/mine/app.py").read_bytes()
