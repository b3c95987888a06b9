"""Make docs/run.svg: a real run in a new project, as a terminal shows it.

    uv run python -m tools.picture

Renders the default project, runs its suite, plants one bug (a task left running), and
runs the suite again.
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

BUG = """import asyncio


async def poll() -> None:
    while True:
        await asyncio.sleep(1)


async def test_it_polls() -> None:
    asyncio.create_task(poll())
"""


def shown(console: Console, folder: Path, *command: str) -> None:
    """Run ``command`` and show it, and what it says, without what differs from machine
    to machine.
    """
    done = execute(
        folder, "uv", *command, COLUMNS="96", PY_COLORS="1", UV_PYTHON=sys.executable
    )
    said = re.sub(
        r"(Using --randomly-seed|Using CPython|Creating virtual|Installed|Resolved|Built).*\n",  # noqa: E501
        "",
        done.stdout,
    )
    console.print(Text.assemble(("$ ", "bold green"), f"uv {' '.join(command)}"))
    for ours, anybodys in (
        (str(folder), "."),
        (sys.base_prefix, "..."),
    ):  # no path of this machine
        said = said.replace(ours, anybodys)
    console.print(Text.from_ansi(said.strip()), end="\n\n")


def main() -> None:
    with open(os.devnull, "w") as nowhere, TemporaryDirectory() as out:
        console = Console(record=True, width=96, file=nowhere, force_terminal=True)
        folder = render(Path(out))
        subprocess.run(
            ["uv", "sync", "-q", "--python", sys.executable], cwd=folder, check=True
        )
        shown(console, folder, "run", "pytest", "-q")
        (folder / "tests" / "test_poll.py").write_text(BUG, encoding="utf-8")
        shown(console, folder, "run", "pytest", "-q", "tests/test_poll.py")
        console.save_svg(str(TEMPLATE / "docs" / "run.svg"), title="a new project")


if __name__ == "__main__":
    main()
