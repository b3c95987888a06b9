"""Render one project of each starter, for readers who want to look before they choose.

    uv run python -m tools.examples FOLDER

FOLDER must be empty or not exist. The release workflow puts the projects on the branch
`examples`.
"""

import json
import sys
from pathlib import Path

from . import TEMPLATE, render


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.examples FOLDER")
    folder = Path(sys.argv[1])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder} is not an empty folder")
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    for starter in questions["starter"]:
        project = render(
            folder,
            project_name=f"Example {starter}",
            project_slug=f"example-{starter.replace('_', '-')}",
            starter=starter,
        )
        print(project)


if __name__ == "__main__":
    main()
