"""Tests that patch what the guards and pytest look at: the name of the system."""

import asyncio
import os

import pytest


@pytest.mark.asyncio
async def test_a_task_under_another_name_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "name", "nt")
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert task.done()


def test_plain_code_under_another_name_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "name", "nt")
    assert os.name == "nt"
