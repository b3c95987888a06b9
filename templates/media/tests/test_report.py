"""The report: lines for people, lines of JSON, and the summary."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from media.plan import Plan, Problem
from media.report import Report, Result

MADE = Result(
    source=Path("cat.png"),
    outputs=[Path("to/cat.png.40.webp")],
    details={"width": 40, "sharpness": 12.5, "qr_codes": [], "loudness": None},
)
FAILED = Result(source=Path("bad.png"), outputs=[], error="not a picture")


def test_results_go_to_stdout_and_failures_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(as_json=False)
    report.add(MADE)
    report.add(FAILED)
    stdout, stderr = capsys.readouterr()
    assert stdout == "cat.png: width=40 sharpness=12.5\n"
    assert stderr == "bad.png: not a picture\n"
    assert (report.made, report.failed) == (1, 1)


def test_with_json_each_line_of_stdout_is_an_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(as_json=True)
    report.add(MADE)
    report.add(FAILED)
    report.add_plan(Plan(), deleted=[Path("to/old.webp")])
    stdout, stderr = capsys.readouterr()
    assert [json.loads(line) for line in stdout.splitlines()] == [
        {
            "file": "cat.png",
            "status": "made",
            "outputs": [str(Path("to/cat.png.40.webp"))],
            "width": 40,
            "sharpness": 12.5,
            "qr_codes": [],
            "loudness": None,
        },
        {"file": "bad.png", "status": "failed", "error": "not a picture"},
        {"file": str(Path("to/old.webp")), "status": "deleted"},
    ]
    assert stderr == "bad.png: not a picture\n"


def test_warnings_name_the_file(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(as_json=True)
    report.add(Result(Path("cat.png"), [], warnings=["odd chunk"]))
    assert [record.getMessage() for record in caplog.records] == ["cat.png: odd chunk"]
    assert caplog.records[0].levelno == logging.WARNING
    assert json.loads(capsys.readouterr().out)["warnings"] == ["odd chunk"]


def test_the_summary_counts_files_and_skipped_suffixes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(as_json=False)
    plan = Plan(
        problems=[Problem(Path("secret"), "Permission denied")],
        up_to_date=7,
        skipped=Counter({".mov": 1, ".txt": 2}),
    )
    report.add_plan(plan)
    report.add(MADE)
    assert report.summary() == (
        "1 made, 7 up to date, 1 failed, 3 skipped (2 .txt, 1 .mov)"
    )
    assert capsys.readouterr().err == "secret: Permission denied\n"


def test_deleted_outputs_are_reported_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(as_json=False)
    report.add_plan(Plan(), deleted=[Path("old.webp")])
    assert capsys.readouterr().out == "old.webp: deleted\n"
    assert report.summary() == ("0 made, 0 up to date, 0 failed, 0 skipped, 1 deleted")


def test_no_text_from_a_file_controls_the_terminal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    report = Report(as_json=False)
    odd = "\x1b[2J\n"
    report.add(Result(Path(odd), [], {"qr_codes": [odd]}, warnings=[odd]))
    report.add(Result(Path(odd), [], error=odd))
    report.add_plan(Plan(skipped=Counter({odd: 1})), deleted=[Path(odd)])
    stdout, stderr = capsys.readouterr()
    texts = [stdout, stderr, report.summary(), caplog.text]
    assert "\x1b" not in "".join(texts)
    assert stdout.count("\n") == 2
    assert stderr.count("\n") == 1
