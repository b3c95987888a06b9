"""Render one project of every starter, to look at before you choose.

    uv run python -m tools.examples FOLDER

The release workflow puts them on the branch `examples`. FOLDER must not exist or be
empty.
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
    for starter in json.loads(
        (TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")
    )["starter"]:
        slug = f"example-{starter.replace('_', '-')}"
        print(
            render(
                folder,
                project_name=f"Example {starter}",
                project_slug=slug,
                starter=starter,
            )
        )


if __name__ == "__main__":
    main()
