"""Write the table of bugs in docs/bugs.md.

Plants each bug into plain pytest-asyncio and into a project of this template.

uv run python -m tools.bug_table
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.planting import FILES, guarded_outcome, plain_outcome, row

from . import TEMPLATE, put_between, render

BEGIN, END = "<!-- bug table: begin -->\n", "<!-- bug table: end -->\n"


def main() -> None:
    with TemporaryDirectory() as out:
        project = render(Path(out))
        subprocess.run(
            ["uv", "sync", "-q", "--python", sys.executable], cwd=project, check=True
        )
        rows = [
            "| planted bug | `asyncio_mode = auto` alone | with the guards |",
            "|---|---|---|",
        ]
        for file in FILES:
            plain = plain_outcome(project, Path(out) / "plain", file)
            rows.append(row(file, plain, guarded_outcome(project, file)))
            print(rows[-1])
    page = TEMPLATE / "docs" / "bugs.md"
    put_between(page, BEGIN, "\n".join(rows) + "\n", END)


if __name__ == "__main__":
    main()
