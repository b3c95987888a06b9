"""The documents quote what was measured, and nothing else."""

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


def test_the_tables_are_what_was_measured(report: ModuleType) -> None:
    for file, bars in (
        (report.PAGE, report.BARS),
        (report.README, report.readme_bars()),
    ):
        text = file.read_text(encoding="utf-8")
        (table,) = re.findall(f"{report.BEGIN}(.*?){report.END}", text, re.DOTALL)
        assert table == report.table(bars), (
            "run `uv run --group bench python benchmarks/report.py`"
        )


def test_the_readme_shows_five_figures(report: ModuleType) -> None:
    assert len(report.readme_bars()) == len(report.README_FIGURES) == 5


def test_every_figure_has_been_measured_and_says_with_what(report: ModuleType) -> None:
    for bar in report.BARS:
        assert bar.value() is not None, bar.figure
    for script in report.SCRIPTS:
        file = TEMPLATE / "docs" / "figures" / f"{script}.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        assert set(record) == {
            "command",
            "date",
            "machine",
            "python",
            "versions",
            "results",
        }


def test_every_benchmark_is_part_of_the_report(report: ModuleType) -> None:
    scripts = {path.stem for path in (TEMPLATE / "benchmarks").glob("*.py")}
    assert scripts == {*report.SCRIPTS, "report", "timeline", "harness"}


def test_the_pictures_in_the_documents_exist() -> None:
    for name in ("README.md", "docs/figures.md"):
        page = TEMPLATE / name
        pictures = re.findall(r"!\[.*?\]\(([\w./]+)\)", page.read_text("utf-8"))
        assert pictures
        for picture in pictures:
            assert (page.parent / picture).exists(), picture


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
        assert f"| {shown} |" in report.table(report.BARS)
