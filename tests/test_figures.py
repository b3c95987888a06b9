"""The documents quote what was measured, and nothing else."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import STARTERS, TEMPLATE

pytestmark = pytest.mark.quick

BENCHMARKS = TEMPLATE / "benchmarks"
RECORD = {"command", "date", "machine", "python", "versions", "results"}
# What is in benchmarks/ and measures nothing for the report.
NOT_MEASURED = {"harness", "pictures", "report", "timeline"}


def load(name: str) -> ModuleType:
    """Import a module of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report() -> ModuleType:
    return load("report")


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    return load("pictures")


def between_the_markers(report: ModuleType, page: Path) -> str:
    """Return what the report has written into a page."""
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(f"{report.BEGIN}(.*?){report.END}", text, re.DOTALL)
    return str(found)


def test_the_tables_are_what_was_measured(report: ModuleType) -> None:
    everything = report.table(report.FIGURES) + report.missed_goals(report.FIGURES)
    assert between_the_markers(report, report.PAGE) == everything
    in_the_readme = report.table(report.readme_figures())
    assert between_the_markers(report, report.README) == in_the_readme


def test_the_readme_shows_five_figures(report: ModuleType) -> None:
    assert len(report.readme_figures()) == 5


def test_every_figure_has_been_measured(report: ModuleType) -> None:
    for figure in report.FIGURES:
        assert figure.value() is not None, figure.name


def test_results_name_their_command_machine_and_versions(report: ModuleType) -> None:
    for script in report.SCRIPTS:
        file = TEMPLATE / "docs" / "figures" / f"{script}.json"
        assert set(json.loads(file.read_text(encoding="utf-8"))) == RECORD


def test_every_benchmark_is_part_of_the_report(report: ModuleType) -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert scripts == NOT_MEASURED | set(report.SCRIPTS)


def test_every_script_is_in_the_readme_of_the_benchmarks() -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)`", readme))
    assert named == {path.name for path in BENCHMARKS.glob("*.py")}


def test_a_missed_goal_is_bold_and_has_a_reason(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    figure = report.Figure(
        "render", "a render", ["ratio"], at_most=1.25, why_missed="It is slow."
    )
    results = tmp_path / "render.json"
    results.write_text('{"results": {"ratio": 1.2}}', encoding="utf-8")
    assert "| 1.20x |" in report.table([figure])
    assert report.missed_goals([figure]) == ""
    results.write_text('{"results": {"ratio": 1.3}}', encoding="utf-8")
    assert "| **1.30x** |" in report.table([figure])
    assert "- a render, against -: It is slow." in report.missed_goals([figure])


def test_every_missed_goal_has_a_reason(report: ModuleType) -> None:
    for figure in report.FIGURES:
        if figure.is_missed():
            assert figure.why_missed, figure.name


def test_every_starter_has_a_picture_of_its_time(pictures: ModuleType) -> None:
    assert list(pictures.PICTURES) == STARTERS
    page = (TEMPLATE / "docs" / "figures.md").read_text(encoding="utf-8")
    for starter in STARTERS:
        assert f"](figures/{starter}.svg)" in page


def test_every_bar_of_a_picture_was_measured(pictures: ModuleType) -> None:
    for starter, panels in pictures.PICTURES.items():
        picture = TEMPLATE / "docs" / "figures" / f"{starter}.svg"
        drawn = picture.read_text(encoding="utf-8")
        for panel in panels:
            for bar in panel.bars:
                value = bar.value(pictures.results_of(starter))
                assert value is not None, bar.label
                shown = pictures.label(value, panel.unit)
                assert shown in drawn, f"{starter}: run benchmarks/pictures.py"


def test_the_pictures_in_the_documents_exist() -> None:
    for name in ("README.md", "docs/figures.md"):
        page = TEMPLATE / name
        pictures = re.findall(r"!\[.*?\]\(([\w./]+)\)", page.read_text("utf-8"))
        assert pictures
        for picture in pictures:
            assert (page.parent / picture).exists(), picture
