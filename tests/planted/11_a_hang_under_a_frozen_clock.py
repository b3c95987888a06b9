"""A test that hangs while a fixture freezes the clock."""

import asyncio
import sys
import time

import pytest

CULPRIT = r"py:27: no end after 0.3 s\n    await asyncio.Event\(\).wait\(\)"


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the function in all modules that have it, as freezegun does."""
    plain = time.monotonic
    now = plain()
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is plain:
                monkeypatch.setattr(module, name, lambda: now)


@pytest.mark.deadline(0.3)
@pytest.mark.asyncio
@pytest.mark.usefixtures("frozen")
async def test_it_gets_ready() -> None:
    await asyncio.Event().wait()
