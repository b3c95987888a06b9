"""Make docs/run.svg: the terminal during a real run in a new project.

    uv run python -m tools.picture

Renders the default project, runs its suite, plants one bug (a task left running) and
runs the test of the bug.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from . import TEMPLATE, execute, render

WIDTH = 96  # columns
BUG = """import asyncio


async def poll() -> None:
    while True:
        await asyncio.sleep(1)


async def test_it_polls() -> None:
    asyncio.create_task(poll())
"""
# Lines that differ from run to run.
VARIABLE_LINES = re.compile(
    r"(Using --randomly-seed|Using CPython|Creating virtual|Installed|Resolved|Built)"
    r".*\n"
)


def run_and_show(console: Console, folder: Path, *command: str) -> None:
    """Run a uv command, and print it and its output to the console.

    Paths of this machine are replaced, and lines that differ from run to run are
    removed.
    """
    done = execute(
        folder,
        *("uv", *command),
        COLUMNS=str(WIDTH),
        PY_COLORS="1",
        UV_PYTHON=sys.executable,
    )
    output = VARIABLE_LINES.sub("", done.stdout)
    output = output.replace(str(folder), ".")
    output = output.replace(sys.base_prefix, "...")
    console.print(Text.assemble(("$ ", "bold green"), f"uv {' '.join(command)}"))
    console.print(Text.from_ansi(output.strip()), end="\n\n")


def main() -> None:
    with open(os.devnull, "w") as devnull, TemporaryDirectory() as out:
        console = Console(record=True, width=WIDTH, file=devnull, force_terminal=True)
        folder = render(Path(out))
        sync = ["uv", "sync", "-q", "--python", sys.executable]
        subprocess.run(sync, cwd=folder, check=True)
        run_and_show(console, folder, "run", "pytest", "-q")
        (folder / "tests" / "test_poll.py").write_text(BUG, encoding="utf-8")
        run_and_show(console, folder, "run", "pytest", "-q", "tests/test_poll.py")
        console.save_svg(str(TEMPLATE / "docs" / "run.svg"), title="a new project")


if __name__ == "__main__":
    main()
