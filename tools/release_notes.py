"""Print the changelog's section of a version, if the tag, the template and the
changelog agree on it.

uv run python -m tools.release_notes v1.2.3
"""

import json
import re
import sys

from . import TEMPLATE


def notes(tag: str, changelog: str, version: str) -> str:
    """Return the section of ``tag``; raise ValueError with one line if something does
    not fit.
    """
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        raise ValueError(f"tag {tag!r} is not of the form v1.2.3")
    if tag[1:] != version:
        raise ValueError(
            f"tag {tag} is not the _version {version} of cookiecutter.json"
        )
    found = re.search(
        rf"^## \[{re.escape(version)}\].*\n((?:(?!## ).*\n?)*)", changelog, re.MULTILINE
    )
    if not found or not found[1].strip():
        raise ValueError(f"CHANGELOG.md tells nothing of {version}")
    return found[1].strip()


def main() -> None:
    version = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))[
        "_version"
    ]
    try:
        print(
            notes(
                " ".join(sys.argv[1:]),
                (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8"),
                version,
            )
        )
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
