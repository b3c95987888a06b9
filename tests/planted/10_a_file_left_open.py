"""A file left open."""

import asyncio
from pathlib import Path

import pytest

CULPRIT = "unclosed file <_io.TextIOWrapper name='"


@pytest.mark.asyncio
async def test_it_opens_a_file(tmp_path: Path) -> None:
    file = await asyncio.to_thread(open, tmp_path / "left", "w")
    assert file.writable()
