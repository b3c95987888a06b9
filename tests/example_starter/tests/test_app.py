"""The program greets, and refuses a negative delay."""

import pytest

from mine.app import main


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_it_greets_after_a_delay(capsys: pytest.CaptureFixture[str]) -> None:
    assert await main("Ada", delay=3600) == 0
    assert capsys.readouterr().out == "Hello, Ada!\n"


@pytest.mark.asyncio
async def test_a_negative_delay_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert await main(delay=-1) == 1
    assert capsys.readouterr().err == "the delay must not be negative: -1\n"
