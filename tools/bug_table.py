"""Write the README's table of bugs: plant each into plain pytest-asyncio and into a project of this template.

uv run python -m tools.bug_table
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from cookiecutter.main import cookiecutter
from tests.conftest import TEMPLATE
from tests.planting import FILES, guarded_outcome, plain_outcome, row

BEGIN, END = "<!-- bug table: begin -->\n", "<!-- bug table: end -->\n"


def main() -> None:
    with TemporaryDirectory() as out:
        project = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=out))
        subprocess.run(["uv", "sync", "-q", "--compile-bytecode", "--python", sys.executable], cwd=project, check=True)
        rows = ["| planted bug | `asyncio_mode = auto` alone | with the guards |", "|---|---|---|"]
        for file in FILES:
            plain = plain_outcome(project, Path(out) / "plain", file)
            rows.append(row(file, plain, guarded_outcome(project, file)))
            print(rows[-1])
    readme = TEMPLATE / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + BEGIN + "\n".join(rows) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
