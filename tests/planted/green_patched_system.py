"""Tests that patch `os.name`, which the guards and pytest use."""

import asyncio
import os

import pytest


@pytest.mark.asyncio
async def test_a_task_with_another_os_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "name", "nt")
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert task.done()


def test_plain_code_with_another_os_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "name", "nt")
    assert os.name == "nt"
