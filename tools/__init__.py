"""Commands that make what stands in the repository or goes with a release, and what
they share.
"""

import os
import subprocess
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]


def render(folder: Path, **answers: str) -> Path:
    """Render a project into ``folder``, with the template's defaults for what is not
    answered; return its folder.
    """
    options = {"no_input": True, "default_config": True, "output_dir": str(folder)}
    return Path(cookiecutter(str(TEMPLATE), extra_context=answers, **options))


def outside(**changes: str) -> dict[str, str]:
    """The environment of a user's shell: nothing of this test run leaks into a
    project's own.
    """
    ours = [
        "PYTEST_",
        "COV_",
        "COVERAGE_",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "UV_PROJECT",
        "UV_RUN_RECURSION_DEPTH",
    ]
    ours.append(
        "PYTHONDONTWRITEBYTECODE"
    )  # each start would compile anew all that it imports
    return {
        k: v for k, v in os.environ.items() if not k.startswith(tuple(ours))
    } | changes


def execute(
    folder: Path, *command: str | Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder as from a user's shell; its stdout holds all that it
    says.
    """
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=outside(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )


def put_between(file: Path, begin: str, text: str, end: str) -> None:
    """Replace what is between two markers in a file."""
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    file.write_text(before + begin + text + end + after, encoding="utf-8")
