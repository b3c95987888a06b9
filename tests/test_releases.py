"""What a release needs: notes that fit its tag, and an example of every starter."""

import sys
from pathlib import Path

import pytest

from tools.release_notes import notes

from .conftest import STARTERS, TEMPLATE, Render, Run

pytestmark = pytest.mark.quick

CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-12-01\n\n### Added\n\n- News.\n\n## [1.1.0]\n\n- Old.\n"  # noqa: E501


def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    assert notes("v1.2.0", CHANGELOG, "1.2.0") == "### Added\n\n- News."
    assert notes("v1.1.0", CHANGELOG, "1.1.0") == "- Old."


@pytest.mark.parametrize(
    ("tag", "version", "why"),
    [
        ("1.2.0", "1.2.0", "not of the form"),
        ("v1.2", "1.2", "not of the form"),
        ("v1.2.0", "1.1.0", "not the _version"),
        ("v1.3.0", "1.3.0", "tells nothing"),
    ],
)
def test_what_does_not_fit_is_refused(tag: str, version: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        notes(tag, CHANGELOG, version)


def test_a_refusal_is_one_line(run: Run) -> None:
    told = run(
        TEMPLATE, sys.executable, "-m", "tools.release_notes", "v0.0.0", status=1
    )
    assert told.count("\n") == 1


def test_the_examples_are_one_project_of_every_starter(
    tmp_path: Path, run: Run, render: Render
) -> None:
    run(TEMPLATE, sys.executable, "-m", "tools.examples", tmp_path / "examples")
    names = [f"example-{starter.replace('_', '-')}" for starter in STARTERS]
    assert sorted(path.name for path in (tmp_path / "examples").iterdir()) == sorted(
        names
    )
    example, last = tmp_path / "examples" / names[-1], STARTERS[-1]
    same = render(project_name=f"Example {last}", project_slug=names[-1], starter=last)
    for path in filter(Path.is_file, same.rglob("*")):
        assert (example / path.relative_to(same)).read_bytes() == path.read_bytes()


def test_examples_never_go_where_something_is(tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine.txt").touch()
    told = run(TEMPLATE, sys.executable, "-m", "tools.examples", tmp_path, status=1)
    assert "not an empty folder" in told
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
