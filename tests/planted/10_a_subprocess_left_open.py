"""A subprocess left running."""

import asyncio
import sys

import pytest

CULPRIT = r"SubprocessTransport|subprocess \d+|waitpid|UVProcess"


@pytest.mark.asyncio
async def test_it_starts_a_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=-1
    )
    assert process.returncode is None
