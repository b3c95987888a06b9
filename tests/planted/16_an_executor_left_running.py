"""An executor left running."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

CULPRIT = "a thread left running: .*ThreadPoolExecutor"
pool = ThreadPoolExecutor(1)


@pytest.mark.asyncio
async def test_it_works() -> None:
    await asyncio.get_running_loop().run_in_executor(pool, len, "work")
