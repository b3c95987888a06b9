"""A release has notes that belong to its tag, and an example of every starter."""

import sys
from pathlib import Path

import pytest

from tools.release_notes import notes

from .conftest import QUESTIONS, STARTERS, TEMPLATE, Render, Run

pytestmark = pytest.mark.quick

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-12-01

### Added

- News.

## [1.1.0]

- Old.
"""


def test_the_notes_of_a_release_are_its_section_in_the_changelog() -> None:
    assert notes("v1.2.0", CHANGELOG, "1.2.0") == "### Added\n\n- News."
    assert notes("v1.1.0", CHANGELOG, "1.1.0") == "- Old."


@pytest.mark.parametrize(
    ("tag", "version", "reason"),
    [
        ("1.2.0", "1.2.0", "not of the form"),
        ("v1.2", "1.2", "not of the form"),
        ("v1.2.0", "1.1.0", "not the _version"),
        ("v1.3.0", "1.3.0", "has no section"),
    ],
)
def test_a_tag_that_is_not_the_version_is_refused(
    tag: str, version: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        notes(tag, CHANGELOG, version)


def test_the_version_of_the_template_has_notes() -> None:
    changelog = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    version = QUESTIONS["_version"]
    assert "starters" in notes(f"v{version}", changelog, version)


def test_a_refused_tag_prints_one_line(run: Run) -> None:
    command = (sys.executable, "-m", "tools.release_notes", "v0.0.0")
    output = run(TEMPLATE, *command, status=1)
    assert output.count("\n") == 1


def test_the_examples_are_one_project_of_every_starter(
    tmp_path: Path, run: Run, render: Render
) -> None:
    run(TEMPLATE, sys.executable, "-m", "tools.examples", tmp_path / "examples")
    names = [f"example-{starter.replace('_', '-')}" for starter in STARTERS]
    folders = [path.name for path in (tmp_path / "examples").iterdir()]
    assert sorted(folders) == sorted(names)

    starter = STARTERS[-1]
    name = names[-1]
    expected = render(
        project_name=f"Example {starter}", project_slug=name, starter=starter
    )
    for path in expected.rglob("*"):
        if path.is_file():
            example = tmp_path / "examples" / name / path.relative_to(expected)
            assert example.read_bytes() == path.read_bytes()


def test_examples_are_not_put_into_a_folder_with_files(
    tmp_path: Path, run: Run
) -> None:
    (tmp_path / "mine.txt").touch()
    output = run(TEMPLATE, sys.executable, "-m", "tools.examples", tmp_path, status=1)
    assert "not an empty folder" in output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
