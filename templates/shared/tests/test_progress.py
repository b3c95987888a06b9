"""Progress: a bar on a terminal, log messages elsewhere."""

import logging
import sys

import pytest

from shared import progress
from shared.progress import Progress


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def test_every_ten_percent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("files", total=20) as bar:
        for _ in range(20):
            bar.advance()
    assert messages(caplog) == [f"{n} of 20 files" for n in range(2, 21, 2)]


def test_a_small_total_is_logged_once_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("files", total=4) as bar:
        for _ in range(4):
            bar.advance()
    assert messages(caplog) == ["4 of 4 files"]


def test_large_steps_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("rows", total=100) as bar:
        bar.advance(35)
        bar.advance(4)
        bar.advance(61)
    assert messages(caplog) == ["35 of 100 rows", "100 of 100 rows"]


def test_without_a_total_the_clock_decides(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("rows") as bar:
        bar.advance(5)
        monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
        bar.advance(2)
    assert messages(caplog) == ["7 rows"]


def test_a_terminal_gets_a_bar_and_no_messages(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("facts", total=2) as bar:
        bar.advance(2)
    stderr = capsys.readouterr().err
    assert "facts" in stderr
    assert "100%" in stderr
    assert messages(caplog) == []


def test_lines_printed_under_a_bar_still_reach_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("facts", total=1) as bar:
        print("a fact")
        bar.advance()
    assert capsys.readouterr().out == "a fact\n"


def test_a_large_item_has_a_bar_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("files", total=1) as bar:
        with bar.track("a[b].bin", total=100, done=20) as advance:
            advance(30)
        bar.advance()
    stderr = capsys.readouterr().err
    assert "a[b].bin" in stderr
    assert "20%" in stderr


def test_without_a_terminal_a_large_item_is_not_shown(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("files", total=1) as bar, bar.track("a.bin", total=100) as advance:
        advance(100)
    assert capsys.readouterr().err == ""
    assert messages(caplog) == []
