"""The README quotes what was measured, and nothing else."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import TEMPLATE

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "report", TEMPLATE / "benchmarks" / "report.py"
    )
    assert spec
    assert spec.loader
    module = sys.modules["report"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_table_is_what_was_measured(report: ModuleType) -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(f"{report.BEGIN}(.*?){report.END}", readme, re.DOTALL)
    assert table == report.table(), (
        "run `uv run --group bench python benchmarks/report.py`"
    )


def test_every_figure_has_been_measured_and_says_with_what(report: ModuleType) -> None:
    for bar in report.BARS:
        assert bar.value() is not None, bar.figure
    for script in report.SCRIPTS:
        told = json.loads(
            (TEMPLATE / "docs" / "figures" / f"{script}.json").read_text(
                encoding="utf-8"
            )
        )
        assert {"command", "date", "machine", "python", "versions", "results"} == set(
            told
        )


def test_every_benchmark_is_part_of_the_report(report: ModuleType) -> None:
    scripts = {path.stem for path in (TEMPLATE / "benchmarks").glob("*.py")}
    assert scripts == {*report.SCRIPTS, "report", "timeline", "harness"}


def test_the_pictures_that_the_readme_shows_are_there() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((docs/[\w./]+)\)", readme)
    assert len(pictures) >= 4
    for picture in pictures:
        assert (TEMPLATE / picture).exists(), picture


def test_a_missed_bar_is_not_hidden(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    monkeypatch.setattr(
        report,
        "BARS",
        [report.Bar("render", "a render", "nothing", ("ratio",), "<=", 1.25)],
    )
    for ratio, shown in ((1.2, "1.20x"), (1.3, "**1.30x**")):
        (tmp_path / "render.json").write_text(
            json.dumps({"results": {"ratio": ratio}}), encoding="utf-8"
        )
        assert f"| {shown} |" in report.table()
