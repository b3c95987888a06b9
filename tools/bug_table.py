"""Write the table of bugs into docs/bugs.md.

    uv run python -m tools.bug_table

Plants each bug into a project with plain pytest-asyncio, and into a project of this
template. Takes about two minutes.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.planting import FILES, guarded_outcome, plain_outcome, row

from . import TEMPLATE, put_between, render

BEGIN = "<!-- bug table: begin -->\n"
END = "<!-- bug table: end -->\n"
HEAD = [
    "| planted bug | `asyncio_mode = auto` alone | with the guards |",
    "|---|---|---|",
]


def main() -> None:
    rows = list(HEAD)
    with TemporaryDirectory() as out:
        project = render(Path(out))
        sync = ["uv", "sync", "-q", "--python", sys.executable]
        subprocess.run(sync, cwd=project, check=True)
        for file in FILES:
            plain = plain_outcome(project, Path(out) / "plain", file)
            guarded = guarded_outcome(project, file)
            rows.append(row(file, plain, guarded))
            print(rows[-1])
    page = TEMPLATE / "docs" / "bugs.md"
    put_between(page, BEGIN, "\n".join(rows) + "\n", END)


if __name__ == "__main__":
    main()
