"""A mock in place of the clock."""

import asyncio

import pytest
from pytest_mock import MockerFixture

from mine.app import main


@pytest.mark.asyncio
async def test_the_delay_is_awaited(
    mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = mocker.patch.object(asyncio, "sleep", autospec=True)
    await main(delay=5)
    sleep.assert_awaited_once_with(5)
    assert capsys.readouterr().out == "Hello, world!\n"
