"""Commands for maintainers of the template, and the functions that they share.

Each module of this package is a command, `uv run python -m tools.<name>`. The exception
is `pythons`, which the tests use.
"""

import os
import subprocess
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]

# Variables that the tests and `uv run` set for themselves. In a project they would
# select the wrong environment or the wrong options.
NOT_INHERITED = (
    "COVERAGE_",
    "COV_",
    "PYTEST_",
    "PYTHONPATH",
    "UV_PROJECT",
    "UV_RUN_RECURSION_DEPTH",
    "VIRTUAL_ENV",
    # With it, each start of a program would compile all its imports again.
    "PYTHONDONTWRITEBYTECODE",
)


def render(folder: Path, **answers: str) -> Path:
    """Render a project into `folder`, and return the folder of the project.

    A question without an answer gets the template's default.
    """
    options = {"no_input": True, "default_config": True, "output_dir": str(folder)}
    return Path(cookiecutter(str(TEMPLATE), extra_context=answers, **options))


def user_environment(**changes: str) -> dict[str, str]:
    """Return the environment variables of a user's shell, with some changes.

    It is the environment of this process without the variables of a test run.
    """
    environment = {}
    for name, value in os.environ.items():
        if not name.startswith(NOT_INHERITED):
            environment[name] = value
    return environment | changes


def execute(
    folder: Path, *command: str | Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, as in a user's shell.

    The time limit is 300 seconds. `stdout` of the result also contains stderr.
    """
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=user_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )


def put_between(file: Path, begin: str, text: str, end: str) -> None:
    """Replace the text between two markers in a file."""
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    file.write_text(before + begin + text + end + after, encoding="utf-8")
