"""A test that hangs in `asyncio.run()`."""

import asyncio

import pytest

CULPRIT = r"py:11: no end after 0.3 s\n    await asyncio.Event\(\).wait\(\)"


async def main() -> None:
    await asyncio.Event().wait()


@pytest.mark.deadline(0.3)
def test_it_gets_ready() -> None:
    asyncio.run(main())
