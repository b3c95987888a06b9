"""Find the Python interpreters on which the rendered projects are tested."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from . import TEMPLATE


@cache
def supported() -> list[str]:
    """Return the Python versions that a project can choose, the oldest first."""
    text = (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
    versions: list[str] = json.loads(text)["python_version"]
    return versions


@cache
def find(version: str) -> Path | None:
    """Return the interpreter of a version such as "3.12", or None if there is none.

    Looks on the path and in pyenv's folder. The commands that pyenv puts on the path
    work only for the versions that are activated.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        Path(sys.executable),
        Path(shutil.which(f"python{version}") or "none"),
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python")),
    ]
    for candidate in candidates:
        if version_of(candidate) == version:
            return candidate
    return None


def version_of(python: Path) -> str | None:
    """Return the version of an interpreter such as "3.12", or None if it fails."""
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def found() -> list[Path]:
    """Return the interpreters of the supported versions, the oldest first."""
    interpreters = (find(version) for version in supported())
    return [interpreter for interpreter in interpreters if interpreter]


def required() -> list[str]:
    """Return the versions that must be found: those in REQUIRE_PYTHONS.

    .ci/run sets the variable to the versions that are installed, so that none of them
    is left out by mistake.
    """
    return os.environ.get("REQUIRE_PYTHONS", "").split()
