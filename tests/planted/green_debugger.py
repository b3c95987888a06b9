"""The deadline is off while a debugger is used."""

import asyncio
import pdb
import sys
import time

import pytest


@pytest.mark.deadline(0.2)
@pytest.mark.asyncio
async def test_a_breakpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def interaction(debugger: pdb.Pdb, *_: object) -> None:
        """Wait for half a second and continue, in place of a person."""
        time.sleep(0.5)
        debugger.set_continue()

    monkeypatch.setattr(pdb.Pdb, "interaction", interaction)
    breakpoint()
    await asyncio.sleep(0.3)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no sys.monitoring")
@pytest.mark.deadline(0.2)
@pytest.mark.asyncio
async def test_a_debugger_that_uses_sys_monitoring() -> None:
    sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, "debugger")
    try:
        await asyncio.sleep(0.5)
    finally:
        sys.monitoring.free_tool_id(sys.monitoring.DEBUGGER_ID)
