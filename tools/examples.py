"""Render one project of every starter, to look at before you choose.

    uv run python -m tools.examples FOLDER

The release workflow puts them on the branch `examples`. FOLDER must not exist or be empty.
"""

import json
import sys
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]


def render(folder: Path) -> list[Path]:
    """Render each starter into ``folder``, under the starter's name; return the projects' folders."""
    starters = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["starter"]
    return [
        Path(
            cookiecutter(
                str(TEMPLATE),
                no_input=True,
                default_config=True,
                output_dir=str(folder),
                extra_context={
                    "project_name": f"Example {starter}",
                    "project_slug": f"example-{starter.replace('_', '-')}",
                    "starter": starter,
                },
            )
        )
        for starter in starters
    ]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.examples FOLDER")
    folder = Path(sys.argv[1])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder} is not an empty folder")
    for project in render(folder):
        print(project)


if __name__ == "__main__":
    main()
