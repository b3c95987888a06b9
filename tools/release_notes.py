"""Print the changelog's section for a version.

    uv run python -m tools.release_notes v1.2.3

Fails with one line if the tag, cookiecutter.json and CHANGELOG.md do not agree on the
version.
"""

import json
import re
import sys

from . import TEMPLATE


def notes(tag: str, changelog: str, version: str) -> str:
    """Return the section of the changelog for `tag`.

    `version` is the template's own, without a "v". Raises ValueError with a message of
    one line if the tag is not of the form v1.2.3, is not this version, or has no
    section.
    """
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        raise ValueError(f"tag {tag!r} is not of the form v1.2.3")
    if tag[1:] != version:
        raise ValueError(
            f"tag {tag} is not the _version {version} of cookiecutter.json"
        )
    heading = rf"^## \[{re.escape(version)}\].*\n"
    lines_until_next_heading = r"((?:(?!## ).*\n?)*)"
    found = re.search(heading + lines_until_next_heading, changelog, re.MULTILINE)
    if not found or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section for {version}")
    return found[1].strip()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.release_notes TAG")
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        print(notes(sys.argv[1], changelog, questions["_version"]))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
