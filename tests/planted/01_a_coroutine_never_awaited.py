"""A coroutine that is never awaited."""

import pytest

CULPRIT = "coroutine 'save' was never awaited"


async def save() -> None: ...


@pytest.mark.asyncio
async def test_it_saves() -> None:
    save()
